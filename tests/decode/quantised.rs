//! Decode over caches in 8 bits against the f64 reference: random formats, shapes, lengths, layouts,
//! options and shares; numbers that are special in a format; garbage in device memory; and what the
//! emulator counts.
//!
//! Each case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use crate::common::fuzz::fuzzed_as;
use crate::common::quantised::{self, FORMATS, Quantised};
use crate::common::{Arrangement, Lengths, Operand, Worst, device, device_with, in_parallel};
use crate::common::{seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::attention::prefill::HeadShape;
use infer_kernels::kv::Format;
use infer_kernels::ptx_emulator::{Config, MmaMode};
use infer_kernels::{Device, Offence};

#[test]
fn random_cases_are_within_their_bounds() {
    // Approximate functions are as wrong as they may be.
    let devices = [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper].map(|mma| {
        device_with(Config {
            mma,
            perturb: true,
            ..Config::default()
        })
    });
    let seeds = seeds(0..60);
    let worst = Worst::default();
    let all: Vec<u64> = seeds.clone().collect();
    in_parallel(&all, |&seed| {
        let case = quantised::random(seed);
        match case.check(&devices[seed as usize % devices.len()]) {
            Ok(margins) => worst.note(margins),
            Err(error) => panic!("seed {seed}: {error}\n{case:?}"),
        }
    });
    println!("seeds {seeds:?}: {worst}");
}

fn heads(query: usize, kv: usize) -> HeadShape {
    HeadShape { query, kv, dim: 64 }
}

/// Three sequences, of which the second has no keys, by two blocks.
fn plain(format: Format) -> Quantised<bf16> {
    let lengths = Lengths::of(&[1, 1, 2], &[40, 0, 150]);
    quantised::plain(3, format, heads(4, 2), &lengths, 2)
}

fn check<T: infer_kernels::Float>(what: &str, case: &Quantised<T>) -> Vec<T> {
    let outcome = case
        .run(shared_device())
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    if let Err(error) = case.judge(&outcome) {
        panic!("{what}: {error}");
    }
    outcome.out
}

/// Every byte is the number that it stands for: keys and values one by one, by heads of one key.
#[test]
fn every_byte_is_its_number() {
    for format in FORMATS {
        // 256 sequences of one key: the output is its value, 64 times the same byte.
        let lengths = Lengths::of(&[1; 256], &[1; 256]);
        let mut case: Quantised<f16> = quantised::plain(1, format, heads(1, 1), &lengths, 3);
        case.case.problem.lse = true;
        case.scales = [vec![0.5], vec![2f32.powi(-4)]];
        case.case.problem.scale = 2f32.powi(-10);
        for row in 0..256 {
            for d in 0..64 {
                case.patches
                    .extend([(0, row, d, row as u8), (1, row, d, row as u8)]);
            }
        }
        let out = check(format.name(), &case);
        for (byte, row) in out.chunks(64).enumerate() {
            let value = infer_kernels::reference::kv::decode(format, byte as u8) / 16.0;
            // A key that is not a number, or infinitely far off, leaves nothing of its value.
            let expected = f16::from_f64(value);
            let same = |x: &f16| x.to_bits() == expected.to_bits() || x.is_nan() || *x == expected;
            assert!(row.iter().all(same), "{format:?} {byte:#x}: {row:?}");
            assert!(value.is_finite() != row[0].is_nan() || value.is_infinite());
        }
    }
}

/// Codes that are not numbers reach every query that sees their key, or the one column that their
/// value has, and nobody else.
#[test]
fn nan_and_infinities_go_where_they_belong() {
    let codes = [
        (Format::E4m3, vec![0x7f, 0xff]),
        (Format::E5m2, vec![0x7c, 0x7d, 0x7f, 0xfc, 0xff]),
    ];
    for (format, codes) in codes {
        for code in codes {
            for blocks in [1, 5] {
                // Row 60 is key 20 of the last sequence; element 70 belongs to the second head.
                let mut case = plain(format);
                // Where a term is infinite, any log-sum-exp would do.
                (case.case.problem.lse, case.blocks) = (false, blocks);
                case.patches = vec![(0, 60, 70, code)];
                let out = check(&format!("{format:?} key {code:#x}"), &case);
                let nan_of = |row: usize, head: usize| {
                    let of_head = &out[(row * 4 + head) * 64..][..64];
                    of_head.iter().filter(|x| x.is_nan()).count()
                };
                assert_eq!([nan_of(0, 2), nan_of(1, 2), nan_of(2, 1)], [0; 3]);
                if format == Format::E4m3 {
                    assert_eq!([nan_of(2, 2), nan_of(3, 3)], [64; 2]);
                }
                case.patches = vec![(1, 60, 70, code)];
                let out = check(&format!("{format:?} value {code:#x}"), &case);
                let special = out.iter().filter(|x| !x.is_finite()).count();
                assert_eq!(special, 4, "two queries, two query heads, one column");
            }
        }
    }
}

/// A scale for all heads or for each; zero, negative, not a number.
#[test]
fn scales_are_factors_of_keys_and_values() {
    for format in FORMATS {
        let special: [([f32; 2], [f32; 2]); 7] = [
            ([0.05, 0.1], [0.02, 0.2]),
            ([0.0, 0.1], [0.02, 0.0]),
            ([-0.05, 0.1], [0.02, -0.2]),
            ([f32::NAN, 0.1], [0.1, 0.1]),
            ([0.1, 0.1], [0.1, f32::NAN]),
            ([1e-30, 0.1], [1e-20, 1e20]),
            ([0.3, 0.1], [1e-45, 0.1]),
        ];
        for (k, v) in special {
            for blocks in [1, 4] {
                let mut case = plain(format);
                case.blocks = blocks;
                case.stored_with = Some([vec![0.04], vec![0.04]]);
                case.scales = [k.into(), v.into()];
                check(&format!("{format:?}, scales {k:?} and {v:?}"), &case);
                case.scales = [k[..1].into(), v[..1].into()];
                check(&format!("{format:?}, scales {} and {}", k[0], v[0]), &case);
            }
        }
    }
}

/// Queries whose elements no f16 could hold, next to rows of others, and rows that are special.
#[test]
fn queries_of_any_magnitude_are_exact_enough() {
    for (exponent, format) in [
        (100, Format::E4m3),
        (-90, Format::Int8),
        (-126, Format::E5m2),
    ] {
        let mut case = plain(format);
        let magnitude = 2f64.powi(exponent);
        let q = &case.case.q;
        case.case.q = Operand::filled(q.shape, Arrangement::Dense, |[row, head, d]| {
            let old = q.data[q.at([row, head, d])].to_f64();
            // A head of smaller ones, another whose elements are 2^30 apart.
            match head {
                0 => old * magnitude * 2f64.powi(-9),
                1 if d % 2 == 0 => old * magnitude * 2f64.powi(-30),
                _ => old * magnitude,
            }
        });
        let scale = 2f32.powi(-exponent / 2);
        case.case.problem.scale = 0.1 * scale;
        case.scales[0] = vec![scale * 0.02, scale * 0.03];
        case.stored_with = Some([vec![0.02, 0.03], case.scales[1].clone()]);
        check(&format!("queries of 2^{exponent}"), &case);
    }
    for special in [f64::NAN, 0.0] {
        let mut case = plain(Format::E4m3);
        case.case.q.set_row(2, special);
        let out = check("a special row", &case);
        let nan = |row: usize| {
            out[row * 256..][..256]
                .iter()
                .filter(|x| x.is_nan())
                .count()
        };
        let expected = if special.is_nan() { 256 } else { 0 };
        assert_eq!([0, 1, 2, 3].map(nan), [0, 0, expected, 0]);
    }
}

/// More blocks than work, and every number between: shares end anywhere in an item.
#[test]
fn any_number_of_blocks_gives_the_result() {
    let blocks: Vec<usize> = (1..=7).chain([24]).collect();
    in_parallel(&blocks, |&blocks| {
        let format = FORMATS[blocks % 3];
        let mut case = plain(format);
        case.blocks = blocks;
        check(&format!("{blocks} blocks"), &case);
    });
}

/// Numbers in device memory that are garbage: nothing is followed out of bounds, and result and
/// status word are as the reference says; or change with every look at them, and nothing is reported
/// of what cannot have been wrong.
#[test]
fn garbage_is_survived_and_reported() {
    let fuzzed = |seed: u64| {
        let case = fuzzed_as::<bf16>(seed, true, |spec| {
            let (dim, v_dim) = spec.dims;
            spec.dims = (dim.next_multiple_of(16), v_dim.next_multiple_of(16));
        });
        let blocks = [1, 2, 4, 9][seed as usize % 4];
        Quantised::of(case, FORMATS[seed as usize % 3], true, blocks)
    };
    let seeds: Vec<u64> = seeds(0..48).collect();
    let shared = device();
    in_parallel(&seeds, |&seed| {
        let case = fuzzed(seed);
        case.check(&shared)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{case:#?}"));
    });
    let of_a_thread: Vec<&[u64]> = seeds.chunks(15).collect();
    in_parallel(&of_a_thread, |seeds| {
        let device = Device::emulator(Config {
            seed: seeds[0],
            ..Config::default()
        });
        for &seed in *seeds {
            let mut case = fuzzed(seed + (1 << 32));
            let expected = case.case.exact().status;
            case.case.hostile = true;
            let outcome = case
                .run(&device)
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            for offence in outcome.status.offences() {
                let possible = match offence {
                    Offence::SeqLensK | Offence::PageRange | Offence::PageId => true,
                    Offence::Mask => case.case.problem.mask,
                    _ => expected.contains(offence),
                };
                assert!(possible, "seed {seed}: {}", outcome.status);
            }
        }
    });
}

/// Every byte of K and V is asked for once for each kv head, in whole sectors and without bank
/// conflicts, by few instructions, whatever the number of query heads.
#[test]
fn keys_are_read_once_for_each_kv_head() {
    const KEYS: usize = 4096;
    // Head dimension, query heads for the one kv head, format, PTX instructions for each KB.
    let rows = [
        (64, 4, Format::E5m2, 108.0),
        (128, 1, Format::E4m3, 153.0),
        (128, 16, Format::E4m3, 153.0),
        (128, 8, Format::E5m2, 78.0),
        (128, 8, Format::Int8, 103.0),
        (256, 2, Format::Int8, 83.0),
    ];
    in_parallel(&rows, |&(dim, query, format, goal)| {
        let heads = HeadShape { query, kv: 1, dim };
        let lengths = Lengths::of(&[1], &[KEYS]);
        let case: Quantised<f16> = quantised::plain(1, format, heads, &lengths, 1);
        let device = Device::emulator(Config::default()); // Drivers do not count.
        let outcome = case.run(&device).unwrap();
        assert!(outcome.status.is_clean());
        let stats = device.last_launch().unwrap();
        // Keys, values and page ids; queries, output and log-sum-exp.
        let cached = 2 * KEYS * dim;
        let minimum = (cached + 4 * KEYS + query * (4 * dim + 4)) as f64;
        let bytes = stats.global_bytes as f64 / minimum;
        let sectors = 32.0 * stats.global_sectors as f64 / minimum;
        let instructions = stats.warp_instructions as f64 / (cached as f64 / 1024.0);
        println!(
            "{}, {query} query heads: {bytes:.4} of all operands' bytes, {sectors:.4} in sectors, \
             {instructions:.1} instructions per KB",
            outcome.entry
        );
        assert!((1.0..1.01).contains(&bytes), "{dim} {query}: {bytes}");
        assert!(sectors < 1.01, "{dim} {query}: {sectors}");
        assert_eq!(stats.bank_conflicts, 0, "{dim} {query}");
        assert!(instructions < goal, "{dim} {query}: {instructions}");
    });
}
