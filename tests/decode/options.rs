//! Every option of decode with every other, against the f64 reference.
//!
//! A covering array: rows in which any choice for any two factors meets. `INFER_KERNELS_STRENGTH=3`
//! makes it any three.

use crate::common::covering::covering;
use crate::common::spec::{LEVELS, Spec};
use crate::common::{Lengths, Worst, decode, device_with, in_parallel};
use infer_kernels::ptx_emulator::{Config, MmaMode};

/// Head dimensions of keys and values: those of entries, and others that they have room for.
const DIMS: [(usize, usize); 7] = [
    (64, 64),
    (128, 128),
    (256, 256),
    (96, 96),
    (192, 128),
    (40, 64),
    (8, 120),
];
/// Query heads for each kv head.
const RATIOS: [usize; 5] = [1, 4, 7, 8, 16];
/// Queries and keys of each sequence.
const LENGTHS: [([usize; 2], [usize; 2]); 4] = [
    ([1, 1], [167, 300]),
    ([1, 1], [1, 33]),
    ([3, 5], [129, 40]),
    ([2, 0], [1, 7]),
];
const BLOCKS: [usize; 3] = [1, 3, 16];

#[test]
fn options_meet_in_every_combination() {
    let strength = std::env::var("INFER_KERNELS_STRENGTH").map_or(2, |n| n.parse().unwrap());
    // Those of prefill but for ragged keys, with other dimensions and ratios, and two more.
    let mut levels = LEVELS.to_vec();
    (levels[1], levels[2]) = (DIMS.len(), RATIOS.len());
    levels[3] -= 1;
    levels.extend([LENGTHS.len(), BLOCKS.len()]);
    let rows = covering(&levels, strength, 3);
    let devices = [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper].map(|mma| {
        device_with(Config {
            mma,
            perturb: true,
            ..Config::default()
        })
    });
    let worst = Worst::default();
    let numbered: Vec<(usize, &Vec<usize>)> = rows.iter().enumerate().collect();
    in_parallel(&numbered, |&(at, row)| {
        let mut of_spec = row[..LEVELS.len()].to_vec();
        (of_spec[1], of_spec[2]) = (0, 0);
        of_spec[3] += 1;
        let spec = Spec {
            dims: DIMS[row[1]],
            ratio: RATIOS[row[2]],
            ..Spec::of(&of_spec)
        };
        let (queries, keys) = LENGTHS[row[LEVELS.len()]];
        let blocks = BLOCKS[row[LEVELS.len() + 1]];
        let case = spec.case(at as u64, 1 + at % 2, &Lengths::of(&queries, &keys));
        let device = &devices[at % devices.len()];
        match decode::check(&case, device, blocks) {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!("row {at}, {blocks} blocks: {error}\n{spec:#?}\n{keys:?}"),
        }
    });
    println!(
        "{} rows cover every choice of {strength} of {} factors: {worst}",
        rows.len(),
        levels.len()
    );
}
