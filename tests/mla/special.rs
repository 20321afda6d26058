//! Latent attention at the shapes of DeepSeek, in every small shape, with special values, and twice.

use crate::common::{Lengths, in_parallel, mla, shared_device};
use half::{bf16, f16};
use infer_kernels::Float;

/// DeepSeek-V2-Lite and V2 or V3 shared by eight GPUs: 16 heads; V2 and V3: 128. One token each, and a
/// few to be verified.
#[test]
fn deepseeks_shapes() {
    let rows = [
        (16, 16, 1, vec![257, 1, 64]),
        (16, 64, 4, vec![130]),
        (128, 64, 1, vec![161, 32]),
        (128, 64, 2, vec![70]),
    ];
    in_parallel(&rows, |(heads, tile, queries, tokens)| {
        let lengths = Lengths::of(&vec![*queries; tokens.len()], tokens);
        let case = mla::case::<bf16>(7, *heads, &lengths, 64, false);
        for blocks in [1, 6] {
            case.check_mla(shared_device(), mla::Way::plain(*tile, blocks))
                .unwrap_or_else(|e| panic!("{heads} heads, {queries} queries: {e}"));
        }
    });
}

/// The last query is aligned with the last token, whichever of them are more.
#[test]
fn all_small_numbers_of_queries_and_tokens() {
    let shapes = |n: usize| (0..5).flat_map(move |q| (0..7).map(move |k| [q, k][n]));
    let lengths = Lengths::of(
        &shapes(0).collect::<Vec<_>>(),
        &shapes(1).collect::<Vec<_>>(),
    );
    let case = mla::case::<f16>(8, 2, &lengths, 3, true);
    for (rows, blocks) in [(16, 4), (64, 7)] {
        case.check_mla(shared_device(), mla::Way::plain(rows, blocks))
            .unwrap();
    }
}

/// A NaN reaches the rows that see it and no others; a row that sees nothing but scores of -∞ has no
/// weight; scores far beyond what an exponential holds are no trouble.
#[test]
fn special_values() {
    fn check<T: Float>(rows: usize) {
        let lengths = Lengths::of(&[1, 2, 1, 1], &[40, 70, 33, 50]);
        let mut case = mla::case::<T>(9, 3, &lengths, 16, false);
        case.problem.lse = true;
        case.q.set_row(1, f64::NAN);
        // The third sequence has scores of -∞ alone, the last huge ones.
        for row in 110..143 {
            for d in 0..576 {
                let at = case.k.at([row, 0, d]);
                case.k.data[at] = T::nearest(if d == 575 { f64::NEG_INFINITY } else { 1.0 });
            }
        }
        for head in 0..3 {
            for d in 0..576 {
                let ones = case.q.at([3, head, d]);
                case.q.data[ones] = T::nearest(1.0);
                let large = case.q.at([4, head, d]);
                case.q.data[large] = T::nearest(3000.0);
            }
        }
        mla::values_of_latents(&mut case);
        for blocks in [1, 5] {
            let outcome = case
                .mla(shared_device(), mla::Way::plain(rows, blocks))
                .unwrap();
            case.judge(&outcome).unwrap();
            let row = |row: usize| &outcome.out[row * 3 * 512..(row + 1) * 3 * 512];
            assert!(row(1).iter().all(|x| x.to_f64().is_nan()));
            assert!(row(2).iter().all(|x| x.to_f64().is_finite()));
            assert!(row(3).iter().all(|x| x.to_f64() == 0.0));
            assert!(row(4).iter().all(|x| x.to_f64().is_finite()));
            let queries = lengths.q.iter().sum::<usize>();
            assert_eq!(outcome.lse[3], f32::NEG_INFINITY);
            assert!(outcome.lse[queries - 1].abs() > 1000.0);
        }
    }
    check::<bf16>(16);
    check::<f16>(64);
}

/// The same call gives the same bits, however its blocks are scheduled.
#[test]
fn repeats_give_the_same_bits() {
    let lengths = Lengths::of(&[2, 1], &[150, 90]);
    let mut case = mla::case::<bf16>(10, 16, &lengths, 16, false);
    case.problem.lse = true;
    let run = |seed| {
        let device = crate::common::device_with(infer_kernels::ptx_emulator::Config {
            seed,
            ..Default::default()
        });
        let outcome = case.mla(&device, mla::Way::plain(16, 7)).unwrap();
        (outcome.out, outcome.lse)
    };
    let bits = |(out, lse): (Vec<bf16>, Vec<f32>)| {
        (
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        )
    };
    let first = bits(run(1));
    for seed in 2..5 {
        assert_eq!(first, bits(run(seed)), "seed {seed}");
    }
}
