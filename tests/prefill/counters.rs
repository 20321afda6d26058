//! What the prefill kernels do, counted by the emulator over a whole launch of one causal head.

use crate::common::spec::{LEVELS, Source, Spec};
use crate::common::{Case, Lengths, Operand, device, in_parallel};
use half::bf16;
use infer_kernels::attention::prefill::{SoftCap, Window};

const TOKENS: usize = 4096;

/// What scores are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scores {
    /// Independent of each other.
    Random,
    /// Largest where a query meets its own key and falling off from there, with noise: the running
    /// maximum is found at once.
    Diagonal,
    /// Growing towards the first key, so that each tile outgrows the one before.
    Growing,
}

impl Scores {
    fn shape(self, case: &mut Case<bf16>) {
        let set = |operand: &mut Operand<bf16>, token: usize, head: usize, pair: [f64; 2]| {
            for (d, x) in pair.into_iter().enumerate() {
                let at = operand.at([token, head, d]);
                operand.data[at] = bf16::from_f64(x);
            }
        };
        let most = 60.0 / f64::from(case.problem.scale);
        let length = most.sqrt();
        for token in 0..TOKENS {
            let turn = token as f64 / TOKENS as f64 * std::f64::consts::FRAC_PI_2;
            let on_circle = [length * turn.cos(), length * turn.sin()];
            let (q, k) = match self {
                Scores::Random => return,
                Scores::Diagonal => (on_circle, on_circle),
                Scores::Growing => ([length, 0.0], on_circle),
            };
            for head in 0..case.q.shape[1] {
                set(&mut case.q, token, head, q);
            }
            set(&mut case.k, token, 0, k);
        }
    }
}

/// What was counted.
struct Counted {
    entry: &'static str,
    /// Instructions other than tensor operations for each tensor operation.
    others: f64,
    bank_conflicts: u64,
    /// Bytes of global memory that were asked for, beyond those of each query tile and the keys that
    /// it sees, as a share of these.
    bytes_beyond: f64,
}

fn count(spec: &Spec, scores: Scores) -> Counted {
    let mut case: Case<bf16> = spec.typed(1, 1, &Lengths::same(&[TOKENS]));
    case.problem.scale = 1.0 / (spec.dims.0 as f32).sqrt();
    scores.shape(&mut case);
    let device = device();
    let outcome = case.run(&device).unwrap();
    assert!(outcome.status.is_clean());
    let stats = device.last_launch().unwrap();

    // Each query tile of 128 rows reads, once, itself and the keys that it sees, in whole tiles.
    let tile_k = outcome.tile_k();
    let keys: usize = (1..=TOKENS / 128)
        .map(|tiles| (128 * tiles).next_multiple_of(tile_k).min(TOKENS))
        .sum();
    let (dim, v_dim) = spec.dims;
    let moved = ((TOKENS + keys) * (dim + v_dim) * 2) as f64;
    let tensor: u64 = stats.mma.values().sum();
    Counted {
        entry: outcome.entry,
        others: (stats.warp_instructions - tensor) as f64 / tensor as f64,
        bank_conflicts: stats.bank_conflicts,
        bytes_beyond: stats.global_bytes as f64 / moved - 1.0,
    }
}

fn spec(dims: (usize, usize), source: Source) -> Spec {
    let mut levels = LEVELS.map(|_| 0);
    levels[0] = 1;
    Spec {
        dims,
        source,
        causal: true,
        ..Spec::of(&levels)
    }
}

#[test]
fn few_instructions_beside_the_tensor_operations() {
    let (d64, d128) = ((64, 64), (128, 128));
    let rows = [
        (spec(d128, Source::Ragged), Scores::Random, 2.6),
        (spec(d128, Source::Ragged), Scores::Diagonal, 2.6),
        (spec(d128, Source::Ragged), Scores::Growing, 2.6),
        (spec(d64, Source::Ragged), Scores::Random, 3.5),
        (spec(d64, Source::Ragged), Scores::Diagonal, 3.5),
        (spec(d128, Source::Rows(16)), Scores::Random, 3.0),
        (spec(d128, Source::Rows(16)), Scores::Diagonal, 3.0),
        (spec(d64, Source::Rows(16)), Scores::Random, 4.2),
    ];
    in_parallel(&rows, |(spec, scores, goal)| {
        let counted = count(spec, *scores);
        let Counted { entry, others, .. } = counted;
        println!("{entry}, {scores:?}: {others:.2} other instructions for each tensor operation");
        assert!(others <= *goal, "{entry}, {scores:?}: {others:.3}");
        assert_eq!(counted.bank_conflicts, 0, "{entry}");
        // Pages cost an index for each key and head.
        let most = if spec.source == Source::Ragged {
            0.01
        } else {
            0.03
        };
        let beyond = counted.bytes_beyond;
        assert!(
            (0.0..most).contains(&beyond),
            "{entry}: {beyond} bytes more"
        );
    });
}

/// Options pay for what they do, and a window saves what it hides.
#[test]
fn options_cost_what_they_are_worth() {
    let plain = spec((128, 128), Source::Ragged);
    type Change = fn(&mut Spec);
    let with = |change: Change| {
        let mut spec = plain.clone();
        change(&mut spec);
        count(&spec, Scores::Random)
    };
    let rows: [(&str, Change, f64); 4] = [
        ("sinks", |spec| spec.sinks = true, 3.2),
        (
            "soft-cap",
            |spec| spec.softcap = Some(SoftCap::Approx(30.0)),
            3.8,
        ),
        (
            "exact soft-cap",
            |spec| spec.softcap = Some(SoftCap::Exact(30.0)),
            5.5,
        ),
        ("ALiBi", |spec| spec.alibi = true, 4.5),
    ];
    in_parallel(&rows, |&(name, change, goal)| {
        let Counted {
            entry,
            others,
            bank_conflicts,
            ..
        } = with(change);
        println!("{entry} with {name}: {others:.2} other instructions for each tensor operation");
        assert_eq!(bank_conflicts, 0, "{entry} with {name}");
        assert!(others <= goal, "{entry} with {name}: {others:.3}");
    });
    let windowed = with(|spec| spec.window = Window::left(511));
    // 512 keys and a tile or two at each end, instead of 2048 on average.
    assert!(windowed.bytes_beyond < -0.55, "{}", windowed.bytes_beyond);
}
