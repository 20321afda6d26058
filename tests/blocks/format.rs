//! Packed blocks of GGUF's formats: layout, exact values, padding, whatever slices.
//!
//! `INFER_KERNELS_CASES=FIRST..END` runs other seeds than a quick run does.

use crate::common::blocks::{dequantize, halves, random};
use crate::common::{in_parallel, seeds};
use half::f16;
use infer_kernels::blocks::layout::Extent;
use infer_kernels::blocks::{BlockFormat, BlockWeight, PackError};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// The register elements of the tensor operation, by the PTX manual: element `i` of lane `l` of the
/// 16×8 operand is row `2(l % 4) + i % 2 + 8(i / 2)` of column `l / 4`.
#[test]
fn a_word_of_bytes_holds_a_column_of_the_operand() {
    let (format, k, n) = (BlockFormat::Q8_0, 96, 70);
    let (bits, scales) = (format.bits(), format.scales());
    let extent = Extent { k, n, bits, scales };
    let (k, n) = (extent.padded_k(), extent.padded_n());
    assert_eq!((k, n), (128, 96));
    for unit in 0..k / 16 * (n / 32) {
        let (row, column) = (unit % (k / 16) * 16, unit / (k / 16) * 32);
        for lane in 0..32 {
            for word in 0..4 {
                for i in 0..4 {
                    let row = row + 2 * (lane % 4) + i % 2 + 8 * (i / 2);
                    let column = column + 8 * word + lane / 4;
                    // Pairs are 16 bits apart.
                    let shift = 8 * (i / 2) + 16 * (i % 2);
                    let expected = (128 * unit + 4 * lane + word, shift as u32);
                    assert_eq!(extent.code_at(row, column), expected);
                }
            }
        }
    }
}

/// No two things lie in one place, and nothing is left over.
#[test]
fn every_place_is_used_once() {
    for format in BlockFormat::ALL {
        let (k, n) = (3 * 256, 70);
        let (bits, scales) = (format.bits(), format.scales());
        let extent = Extent { k, n, bits, scales };
        let mut codes = vec![false; extent.code_words() * 32 / bits];
        let mut bytes = vec![0; 4 * extent.scale_words()];
        for column in 0..extent.padded_n() {
            for row in 0..extent.padded_k() {
                let (word, shift) = extent.code_at(row, column);
                let place = &mut codes[(32 * word + shift as usize) / bits];
                assert!(!std::mem::replace(place, true));
            }
            for row in (0..extent.padded_k()).step_by(scales.group()) {
                let at = extent.scale_at(row, column);
                match extent.super_at(row, column) {
                    None => {
                        for at in [Some(at), extent.offset_at(row, column)].iter().flatten() {
                            bytes[2 * at] += 1;
                            bytes[2 * at + 1] += 1;
                        }
                    }
                    Some(upper) => {
                        for at in [Some(at), extent.offset_at(row, column)].iter().flatten() {
                            bytes[*at] += 1;
                        }
                        if row % 256 == 0 {
                            bytes[2 * upper] += 1;
                            bytes[2 * upper + 1] += 1;
                            if scales.has_offsets() {
                                bytes[2 * upper + 8] += 1;
                                bytes[2 * upper + 9] += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(codes.iter().all(|&seen| seen), "{format}");
        assert!(bytes.iter().all(|&seen| seen == 1), "{format}");
    }
}

/// A tensor of any bytes becomes the numbers that its format defines, bit for bit.
#[test]
fn what_is_packed_is_what_the_format_defines() {
    in_parallel(&Vec::from_iter(seeds(0..80)), |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let format = BlockFormat::ALL[seed as usize % 8];
        let k = format.rows() * rng.random_range(0..4);
        let n = *[0, 1, 8, 31, 32, 33, 70].choose(rng).unwrap();
        // From the smallest numbers of f16 to the largest.
        let size = 2f64.powf(rng.random_range(-20.0..12.0));
        let mut bytes = random(rng, format, [k, n], size);
        for block in bytes.chunks_mut(format.bytes()) {
            for &at in halves(format) {
                if rng.random_bool(0.1) {
                    let odd = [
                        f16::ZERO,
                        f16::NEG_ZERO,
                        f16::MIN,
                        f16::MIN_POSITIVE_SUBNORMAL,
                    ];
                    let odd = odd.choose(rng).unwrap().to_le_bytes();
                    block[at..at + 2].copy_from_slice(&odd);
                }
            }
        }
        let packed = BlockWeight::pack(format, k, n, &bytes).unwrap();
        assert_eq!((packed.format(), packed.k(), packed.n()), (format, k, n));
        let (exact, got) = (dequantize(format, [k, n], &bytes), packed.dequantize());
        assert_eq!(got.len(), exact.len());
        for (got, exact) in got.iter().zip(&exact) {
            assert_eq!(
                got.to_bits(),
                exact.to_bits(),
                "{format}: {got}, not {exact}"
            );
        }
        // Padding stands for zero.
        let extent = packed.extent();
        for row in 0..extent.padded_k() {
            for column in 0..extent.padded_n() {
                if row >= k || column >= n {
                    assert_eq!(packed.code(row, column), 0);
                    assert_eq!(packed.scale(row, column), 0.0);
                    assert_eq!(packed.offset(row, column), 0.0);
                }
            }
        }
    });
}

/// Bits of a packed weight, as docs/blocks.md has them.
#[test]
fn packed_weights_are_as_small_as_told() {
    for (format, bits) in [
        (BlockFormat::Q4_0, 4.5),
        (BlockFormat::Q4_1, 5.0),
        (BlockFormat::Q5_0, 8.5),
        (BlockFormat::Q5_1, 9.0),
        (BlockFormat::Q8_0, 8.5),
        (BlockFormat::Q4_K, 4.625),
        (BlockFormat::Q5_K, 8.625),
        (BlockFormat::Q6_K, 8.5625),
    ] {
        let (k, n) = (512, 64);
        let bytes = vec![0; k * n / format.rows() * format.bytes()];
        let packed = BlockWeight::pack(format, k, n, &bytes).unwrap();
        assert_eq!(
            packed.bytes() as f64 * 8.0 / (k * n) as f64,
            bits,
            "{format}"
        );
    }
}

/// Whatever the lengths and the contents: an answer or an error, and no panic.
#[test]
fn any_slices_are_answered() {
    let rng = &mut StdRng::seed_from_u64(11);
    let mut packed = 0;
    for _ in 0..4000 {
        let mut size = |sizes: &[usize]| match rng.random_bool(0.02) {
            true => *[usize::MAX, usize::MAX / 8, 1 << 40, 1 << 31]
                .choose(rng)
                .unwrap(),
            false => *sizes.choose(rng).unwrap(),
        };
        let (k, n) = (
            size(&[0, 32, 64, 96, 256, 512, 33]),
            size(&[0, 1, 7, 32, 40]),
        );
        let format = *BlockFormat::ALL.choose(rng).unwrap();
        let length = n
            .saturating_mul(k / format.rows())
            .saturating_mul(format.bytes());
        let length = match rng.random_bool(0.05) {
            true => length
                .min(100_000)
                .saturating_add_signed(rng.random_range(-2i32..3) as isize),
            false => length.min(100_000),
        };
        let mut blocks = vec![0; length];
        rng.fill(&mut blocks[..]);
        match BlockWeight::pack(format, k, n, &blocks) {
            Ok(weight) => {
                assert!(weight.dequantize().iter().all(|x| x.is_finite()));
                packed += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                packed += usize::from(matches!(error, PackError::Scale { .. }));
            }
        }
    }
    assert!(packed > 2500, "{packed}: too few to mean anything");
}
