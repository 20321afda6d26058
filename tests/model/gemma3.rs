//! Gemma 3 270M from its file: logits against f64, and batches that change nothing.

use half::f16;
use infer_kernels::DType;
use infer_kernels::gguf::GgufFile;
use infer_kernels::kv::Pairing;
use infer_kernels::ptx_emulator::Checks;

use super::gemma::batch::Span;
use super::gemma::config::Config;
use super::gemma::engine::{Draw, Engine, Options};
use super::gemma::reference::{Reference, Variant};
use super::gemma::schedule::{Event, Policy, Request, serve};
use super::{Outcome, by_steps, device, file, furthest, lead, model, tokenizer, whole};

/// Tokens that are among the first of the vocabulary.
const TOKENS: [u32; 22] = [
    2, 818, 5279, 529, 7001, 563, 506, 5279, 529, 506, 4110, 1902, 1030, 563, 506, 7488, 3207, 528,
    506, 4110, 532, 506,
];

/// Percents of a text's tokens that must be clear of ties. In 4 bits the model is less sure of itself.
const CLEAR: usize = 80;
const CLEAR_IN_4_BITS: usize = 50;

/// Every logit of a prompt is as near to f64 as twice what rounding explains; the most likely token is
/// the same wherever the second is further away than that, which it is in `clear` percent at least. A
/// model with a fault is far off.
fn teacher_forced(
    engine: &mut Engine<f16>,
    reference: &Reference<'_>,
    config: &Config,
    tokens: &[u32],
    clear: usize,
) -> Outcome {
    let first = tokens.len() - 6;
    let mut steps = vec![16; first / 16];
    steps.extend([first % 16, 4, 1, 1].iter().filter(|&&step| step > 0));
    let got = by_steps(engine, tokens, &steps)?;

    let exact = Variant {
        rounded: None,
        codes: false,
        pairing: Pairing::Halves,
        window: config.window,
    };
    let rounded = Variant {
        rounded: Some(DType::F16),
        ..exact
    };
    let (mut deviation, mut error) = (0.0f64, 0.0f64);
    let (hidden, hidden_rounded) = (
        reference.hidden(tokens, exact),
        reference.hidden(tokens, rounded),
    );
    let (mut qualified, mut pairs) = (0, vec![]);
    for (i, got) in got.chunks(16 * config.vocab).enumerate() {
        let rows = |hidden: &[f64]| {
            let part = hidden.chunks(16 * config.hidden).nth(i).unwrap_or_default();
            reference.logits(part)
        };
        let (exact, rounded) = (rows(&hidden), rows(&hidden_rounded));
        deviation = deviation.max(furthest(rounded, &exact));
        error = error.max(furthest(got.iter().map(|&x| x.into()), &exact));
        for (exact, got) in exact.chunks(config.vocab).zip(got.chunks(config.vocab)) {
            let lead_of_exact = lead(exact.iter().copied());
            pairs.push((lead_of_exact, lead(got.iter().map(|&x| x.into())).0));
        }
    }
    let bound = 2.0 * deviation;
    assert!(
        error <= bound,
        "a logit is off by {error}, rounding explains {deviation}"
    );
    for (i, &((expected, margin), got)) in pairs.iter().enumerate() {
        if margin > bound {
            qualified += 1;
            assert_eq!(got, expected, "token {i}, ahead by {margin}");
        } else {
            eprintln!("token {i} is near a tie: {expected} is ahead by {margin:.3}, got {got}");
        }
    }
    eprintln!(
        "{} tokens: off by at most {error:.4} of {bound:.4}, {qualified} clear of ties",
        tokens.len()
    );
    assert!(100 * qualified >= clear * tokens.len());

    let planted = [
        Variant {
            pairing: Pairing::Interleaved,
            ..exact
        },
        Variant {
            window: exact.window + 1,
            ..exact
        },
        Variant {
            window: exact.window - 1,
            ..exact
        },
    ];
    for variant in planted {
        if tokens.len() <= variant.window && variant.pairing == exact.pairing {
            continue; // Such a window hides nothing.
        }
        let hidden = reference.hidden(tokens, variant);
        let last = reference.logits(&hidden[hidden.len() - config.hidden..]);
        let got = got[got.len() - config.vocab..].iter().map(|&x| x.into());
        let error = furthest(got, &last);
        assert!(
            error > bound,
            "{variant:?} went unnoticed: {error}, {bound}"
        );
    }
    Ok(())
}

#[test]
fn logits_are_those_of_f64() -> Outcome {
    let Some(bytes) = file() else { return Ok(()) };
    let whole = whole();
    // A window that prompts are longer than: 512 as it is.
    let model = model(&bytes, |config| {
        config.window = if whole { 24 } else { 9 };
        if !whole {
            (config.layers, config.vocab) = (6, 8192);
        }
    })?;
    let options = Options {
        sequences: 2,
        max_keys: 64,
        max_rows: 16,
        max_logits: 16,
        invariant: false,
    };
    let mut engine = Engine::new(&device(Checks::NONE), &model, options)?;
    let reference = Reference::new(&model);
    if !whole {
        return teacher_forced(&mut engine, &reference, &model.config, &TOKENS, CLEAR);
    }
    let tokenizer = tokenizer::Tokenizer::from_gguf(&GgufFile::parse(&bytes)?)?;
    for prompt in PROMPTS {
        let mut tokens = tokenizer.encode(prompt)?;
        assert!(tokens.len() >= 64, "{} tokens", tokens.len());
        tokens.truncate(64);
        teacher_forced(&mut engine, &reference, &model.config, &tokens, CLEAR)?;
    }
    Ok(())
}

/// The same of the model in 4 bits.
#[test]
fn logits_in_4_bits_are_those_of_f64() -> Outcome {
    let Some(bytes) = file() else { return Ok(()) };
    let whole = whole();
    let model = model(&bytes, |config| {
        config.window = if whole { 24 } else { 9 };
        if !whole {
            (config.layers, config.vocab) = (2, 4096);
        }
    })?;
    let before = model.bytes();
    let model = model.into_int4(DType::F16)?;
    assert!(20 * model.bytes() < 13 * before, "{} bytes", model.bytes());
    let options = Options {
        sequences: 1,
        max_keys: 64,
        max_rows: 16,
        max_logits: 16,
        invariant: false,
    };
    let mut engine = Engine::new(&device(Checks::NONE), &model, options)?;
    let reference = Reference::new(&model);
    if !whole {
        let tokens = TOKENS.map(|token| token % 4096);
        return teacher_forced(
            &mut engine,
            &reference,
            &model.config,
            &tokens,
            CLEAR_IN_4_BITS,
        );
    }
    let tokenizer = tokenizer::Tokenizer::from_gguf(&GgufFile::parse(&bytes)?)?;
    for prompt in PROMPTS {
        let tokens = tokenizer.encode(prompt)?;
        teacher_forced(
            &mut engine,
            &reference,
            &model.config,
            &tokens[..64],
            CLEAR_IN_4_BITS,
        )?;
    }
    Ok(())
}

/// Texts of more than 64 tokens.
const PROMPTS: [&str; 3] = [
    "The river rises in the hills above the town, runs past the old mill, and turns south before it \
     meets the sea. In spring the water is high and brown; by the end of summer children cross it on \
     stones. The first bridge was built of wood, and the second, which still stands, of granite that \
     was brought by boat from the islands.",
    "fn main() {\n    let numbers = vec![3, 1, 4, 1, 5, 9, 2, 6];\n    let mut sorted = \
     numbers.clone();\n    sorted.sort();\n    for (i, number) in sorted.iter().enumerate() {\n        \
     println!(\"{i}: {number}\");\n    }\n    let sum: i32 = numbers.iter().sum();\n    \
     println!(\"sum {sum}\");\n}\n",
    "Question: A train leaves at 9:15 and arrives at 11:40. How long does the journey take?\nAnswer: \
     From 9:15 to 11:15 are two hours, and 25 minutes more make 11:40, so it takes 2 hours and 25 \
     minutes.\nQuestion: And if it is 10 minutes late?\nAnswer: Then it arrives at 11:50, and the \
     journey takes 2 hours and 35 minutes.",
];

/// Requests that come one by one, or as one batch, or with drafts that are verified: the same tokens.
#[test]
fn batches_and_drafts_change_no_token() -> Outcome {
    let Some(bytes) = file() else { return Ok(()) };
    let model = model(&bytes, |config| {
        (
            config.layers,
            config.global_every,
            config.vocab,
            config.window,
        ) = (2, 2, 8192, 7);
    })?;
    let prompts = [&TOKENS[..13], &TOKENS[..1], &TOKENS[3..8]];
    let request = |arrives, prompt: &[u32]| Request {
        prompt: prompt.to_vec(),
        arrives,
        max_tokens: 10,
    };
    let options = |sequences| Options {
        sequences,
        max_keys: 40,
        max_rows: 24,
        max_logits: 12,
        invariant: true,
    };
    let device = device(Checks::NONE);
    let policy = |chunk, drafts| Policy {
        draw: Draw {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.95,
            seed: 7,
        },
        end: u32::MAX,
        chunk,
        drafts,
    };
    let mut steps = [0; 3];
    let mut right = 0;
    let mut count = |way: usize, event| {
        if let Event::Step { drafts, .. } = event {
            steps[way] += 1;
            right += drafts[1];
        }
        Ok(())
    };
    let mut alone = Engine::<f16>::new(&device, &model, options(1))?;
    let mut expected = vec![];
    for prompt in prompts {
        let requests = [request(0, prompt)];
        expected.extend(serve(&mut alone, &requests, policy(24, 0), &mut |e| {
            count(0, e)
        })?);
    }
    let requests = [
        request(0, prompts[0]),
        request(2, prompts[1]),
        request(3, prompts[2]),
    ];
    let mut engine = Engine::<f16>::new(&device, &model, options(3))?;
    let batch = serve(&mut engine, &requests, policy(4, 0), &mut |e| count(1, e))?;
    assert_eq!(batch, expected, "as one batch");
    let drafted = serve(&mut engine, &requests, policy(5, 3), &mut |e| count(2, e))?;
    assert_eq!(drafted, expected, "with drafts");
    eprintln!("steps one by one, as a batch, with drafts: {steps:?}; {right} drafts were right");
    assert!(steps[1] < steps[0]);
    assert!(right > 0, "no draft was right: nothing was tried");
    Ok(())
}

/// Steps of prompts and of single tokens, with every check of the emulator.
#[test]
fn steps_are_clean_under_all_checks() -> Outcome {
    let Some(bytes) = file() else { return Ok(()) };
    let model = model(&bytes, |config| {
        if !whole() {
            (config.layers, config.global_every, config.vocab) = (2, 2, 8192);
        }
    })?;
    let options = Options {
        sequences: 2,
        max_keys: 32,
        max_rows: 16,
        max_logits: 2,
        invariant: false,
    };
    let mut engine = Engine::<f16>::new(&device(Checks::ALL), &model, options)?;
    for tokens in [&TOKENS[..5], &[506]] {
        let spans = [0, 1].map(|sequence| Span {
            sequence,
            tokens,
            logits: 1,
        });
        engine.step(&spans)?;
        let drawn = engine.draw(Draw::default())?;
        assert_eq!(drawn[0], drawn[1]);
    }
    Ok(())
}
