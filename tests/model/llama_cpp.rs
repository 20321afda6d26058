//! The same file read by llama.cpp: its tokens, and its logits. `scripts/model-facts.py` wrote them down.

use half::f16;
use infer_kernels::gguf::GgufFile;
use infer_kernels::kv::Pairing;
use infer_kernels::ptx_emulator::Checks;
use serde_json::Value;

use super::gemma::engine::{Engine, Options};
use super::gemma::reference::{Reference, Variant};
use super::tokenizer::Tokenizer;
use super::{Outcome, by_steps, device, file, furthest, lead, model, whole};

/// Texts and their tokens.
const TOKENS: &str = include_str!("../data/gemma3-tokens.json");
/// Prompts with what followed, and the largest logits of each place.
const LOGITS: &str = include_str!("../data/gemma3-logits.json");

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("tokens are listed");
    ids.iter().map(id).collect()
}

fn id(value: &Value) -> u32 {
    let id = value.as_u64().and_then(|id| id.try_into().ok());
    id.expect("tokens are numbers")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("logits are numbers")
}

/// Any text has the tokens that llama.cpp gives it, and they become the bytes that it makes of them.
#[test]
fn tokens_are_llama_cpps() -> Outcome {
    let Some(bytes) = file() else { return Ok(()) };
    let tokenizer = Tokenizer::from_gguf(&GgufFile::parse(&bytes)?)?;
    for row in serde_json::from_str::<Vec<Value>>(TOKENS)? {
        let text = row["text"].as_str().expect("there is a text");
        let expected = ids(&row["ids"]);
        let got = tokenizer.encode(text)?;
        assert_eq!(got[1..], expected, "{text:?}");
        let mut so_far = Default::default();
        let bytes = row["bytes"].as_array().expect("there are bytes");
        let bytes: Vec<u8> = bytes.iter().map(|byte| id(byte) as u8).collect();
        let mut again = String::new();
        for &token in &expected {
            again += &tokenizer.push(&mut so_far, token)?;
        }
        assert_eq!(again.as_bytes(), bytes, "{text:?}");
    }
    Ok(())
}

/// llama.cpp reads the inputs of products in codes of 8 bits. The reference that does so too is as far
/// from f64 as that explains; llama.cpp's logits are as near to those of these kernels as twice that,
/// and its most likely token is the same wherever the second is further away.
#[test]
fn logits_are_llama_cpps() -> Outcome {
    if !whole() {
        return Ok(()); // The first layers alone say nothing that llama.cpp would.
    }
    let Some(bytes) = file() else { return Ok(()) };
    let model = model(&bytes, |_| {})?;
    let options = Options {
        sequences: 1,
        max_keys: 96,
        max_rows: 16,
        max_logits: 16,
        invariant: false,
    };
    let mut engine = Engine::<f16>::new(&device(Checks::NONE), &model, options)?;
    let reference = Reference::new(&model);
    let config = &model.config;
    let exact = Variant {
        rounded: None,
        codes: false,
        pairing: Pairing::Halves,
        window: config.window,
    };
    for row in serde_json::from_str::<Vec<Value>>(LOGITS)? {
        let tokens = ids(&row["ids"]);
        let mut steps = vec![16; tokens.len() / 16];
        steps.extend(vec![1; tokens.len() % 16]);
        let got = by_steps(&mut engine, &tokens, &steps)?;
        let hidden =
            [false, true].map(|codes| reference.hidden(&tokens, Variant { codes, ..exact }));
        let rows = |hidden: &[f64], at: usize| {
            reference.logits(&hidden[at * config.hidden..][..config.hidden])
        };
        let (mut deviation, mut of_f64, mut pairs) = (0.0f64, 0.0f64, vec![]);
        for (at, (got, theirs)) in got
            .chunks(config.vocab)
            .zip(row["positions"].as_array().expect("there are places"))
            .enumerate()
        {
            let [exact, in_codes] = hidden.each_ref().map(|hidden| rows(hidden, at));
            deviation = deviation.max(furthest(in_codes, &exact));
            for top in theirs["top"].as_array().expect("there are logits") {
                let (token, theirs) = (id(&top[0]) as usize, number(&top[1]));
                of_f64 = of_f64.max((theirs - exact[token]).abs());
                pairs.push((at, f64::from(got[token]), theirs));
            }
            let most = got.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = got.iter().map(|x| f64::from(x - most).exp()).sum();
            pairs.push((
                at,
                f64::from(most) + sum.ln(),
                number(&theirs["log_sum_exp"]),
            ));
        }
        let bound = 2.0 * deviation;
        let mut worst = 0.0f64;
        for &(at, ours, theirs) in &pairs {
            let error = (ours - theirs).abs();
            worst = worst.max(error);
            assert!(
                error <= bound,
                "token {at}: {ours}, {theirs}, {bound} allowed"
            );
        }
        let mut same = 0;
        for (at, (got, theirs)) in got
            .chunks(config.vocab)
            .zip(row["positions"].as_array().expect("there are places"))
            .enumerate()
        {
            let (ours, margin) = lead(got.iter().map(|&x| x.into()));
            let theirs = id(&theirs["top"][0][0]) as usize;
            same += usize::from(ours == theirs);
            assert!(
                ours == theirs || margin <= 2.0 * bound,
                "token {at}, ahead by {margin}"
            );
        }
        eprintln!(
            "{} tokens: at most {worst:.4} from llama.cpp, which is at most {of_f64:.4} from f64, of \
             {bound:.4}; {same} times the same token",
            tokens.len()
        );
        assert!(worst > 0.0, "nothing was compared");
    }
    Ok(())
}
