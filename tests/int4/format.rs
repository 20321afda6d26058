//! The packed type of 4-bit weights: layout, loaders, round trips, cutting, quantizing.
//!
//! `INFER_KERNELS_CASES=FIRST..END` runs other seeds than a quick run does.

use crate::common::int4::{Plain, awq, compressed, q4_0};
use crate::common::{in_parallel, seeds};
use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::int4::layout::Extent;
use infer_kernels::int4::load::{Awq, CompressedTensors, Gptq, GptqVersion, Q4_0, Scale};
use infer_kernels::int4::{Codes, Int4Weight, PackError, Quantizer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const GROUPS: [Option<usize>; 7] = [
    Some(16),
    Some(32),
    Some(64),
    Some(128),
    Some(192),
    Some(1024),
    None,
];

/// The register elements of the tensor operation, by the PTX manual: element `i` of lane `l` of the
/// 16×8 operand is row `2(l % 4) + i % 2 + 8(i / 2)` of column `l / 4`.
#[test]
fn a_word_holds_the_operands_of_two_tensor_operations() {
    let extent = Extent {
        k: 90,
        n: 70,
        group: 32,
    };
    let (k, n) = (extent.padded_k(), extent.padded_n());
    assert_eq!((k, n), (128, 96));
    let mut seen = vec![false; 8 * extent.code_words()];
    for unit in 0..k / 32 * (n / 32) {
        let (row, column) = (unit % (k / 32) * 32, unit / (k / 32) * 32);
        for lane in 0..32 {
            for step in 0..2 {
                for block in 0..4 {
                    for i in 0..4 {
                        let row = row + 16 * step + 2 * (lane % 4) + i % 2 + 8 * (i / 2);
                        let column = column + 8 * block + lane / 4;
                        let (word, shift) = extent.code_at(row, column);
                        assert_eq!(word, 128 * unit + 4 * lane + 2 * step + block / 2);
                        // Operand registers are pairs: both halves of a word after one shift.
                        let register = 2 * (block % 2) + i / 2;
                        assert_eq!(shift as usize, 4 * register + 16 * (i % 2));
                        assert!(!std::mem::replace(
                            &mut seen[8 * word + shift as usize / 4],
                            true
                        ));
                    }
                }
            }
        }
    }
    assert!(seen.into_iter().all(|seen| seen));
}

#[test]
fn scales_and_zero_points_of_a_lane_are_neighbours() {
    let extent = Extent {
        k: 256,
        n: 64,
        group: 64,
    };
    let mut seen = vec![false; extent.scales()];
    for group in 0..4 {
        for column in 0..64 {
            let at = extent.scale_at(group, column);
            assert!(!std::mem::replace(&mut seen[at], true));
            let (word, shift) = extent.zero_at(group, column);
            // A lane's four in the order of columns 0, 16, 8, 24.
            let place = at / 4 * 4 + [0, 2, 1, 3][at % 4];
            assert_eq!(8 * word + shift as usize / 4, place);
        }
        let lane = |g: usize| [0, 8, 16, 24].map(|more| extent.scale_at(group, g + more));
        for g in 0..8 {
            let first = lane(g)[0];
            assert_eq!(lane(g), [first, first + 1, first + 2, first + 3]);
        }
    }
    assert!(seen.into_iter().all(|seen| seen));
}

/// The packed matrix is what the plain one is, exactly, and padding stands for zero.
fn is_the_same<S: Scale>(packed: &Int4Weight, plain: &Plain<S>) {
    assert_eq!((packed.k(), packed.n()), (plain.k, plain.n));
    assert_eq!(packed.unpack(), plain.codes);
    assert_eq!(packed.scale_dtype(), S::DTYPE);
    let symmetric = plain.zeros.iter().all(|&zero| zero == 8);
    assert_eq!(packed.meaning() == Codes::Symmetric, symmetric);
    let (exact, got) = (plain.dequantize(), packed.dequantize());
    assert_eq!(got.len(), exact.len());
    for (got, exact) in got.iter().zip(&exact) {
        assert_eq!(got.to_bits(), exact.to_bits());
    }
    let extent = packed.extent();
    for row in 0..extent.padded_k() {
        for column in 0..extent.padded_n() {
            if row < extent.k && column < extent.n {
                continue;
            }
            let (word, shift) = extent.code_at(row, column);
            let code = packed.codes()[word] >> shift & 15;
            assert_eq!(code, u32::from(packed.zero(row / extent.group, column)));
        }
    }
}

fn every_loader<S: Scale>(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let group = *GROUPS.choose(rng).unwrap();
    let k = 8 * rng.random_range(0..60);
    let n = 8 * rng.random_range(0..12);
    let plain = |rng: &mut StdRng, k, n, group| {
        let plain = Plain::<S>::random(rng, [k, n], group);
        match rng.random_bool(0.3) {
            true => plain.symmetric(),
            false => plain,
        }
    };
    let matrix = plain(rng, k, n, group);
    for version in [GptqVersion::V1, GptqVersion::V2] {
        let layer = matrix.gptq(version);
        let packed = layer.pack().unwrap();
        assert!(
            packed.order().is_none(),
            "groups in order need no permutation"
        );
        is_the_same(&packed, &matrix);
        let without = Gptq {
            k,
            n,
            group,
            qweight: &layer.qweight,
            qzeros: &layer.qzeros,
            scales: &layer.scales,
            g_idx: None,
            version,
        };
        assert_eq!(without.pack().unwrap(), packed);
    }
    let permuted = matrix.clone().act_order(rng);
    is_the_same(&permuted.gptq(GptqVersion::V2).pack().unwrap(), &permuted);

    let k = rng.random_range(0..300);
    let matrix = plain(rng, k, n, group);
    let (qweight, qzeros) = awq(&matrix);
    let layer = Awq {
        k: matrix.k,
        n,
        group,
        qweight: &qweight,
        qzeros: &qzeros,
        scales: &matrix.scales,
    };
    is_the_same(&layer.pack().unwrap(), &matrix);

    let (k, n) = (rng.random_range(0..300), rng.random_range(0..90));
    let matrix = plain(rng, k, n, group);
    let (codes, scales, zeros) = compressed(&matrix);
    let symmetric = matrix.zeros.iter().all(|&zero| zero == 8);
    let layer = CompressedTensors {
        k,
        n,
        group,
        weight_packed: &codes,
        weight_scale: &scales,
        weight_zero_point: (!symmetric).then_some(&zeros),
    };
    is_the_same(&layer.pack().unwrap(), &matrix);

    let (k, n) = (32 * rng.random_range(0..6), rng.random_range(0..70));
    let matrix = Plain::<f16>::random(rng, [k, n], Some(32)).symmetric();
    let blocks = q4_0(&matrix);
    let layer = Q4_0 {
        k,
        n,
        blocks: &blocks,
    };
    is_the_same(&layer.pack().unwrap(), &matrix);
}

#[test]
fn what_is_loaded_is_what_was_stored() {
    in_parallel(&Vec::from_iter(seeds(0..60)), |&seed| match seed % 2 {
        0 => every_loader::<f16>(seed),
        _ => every_loader::<bf16>(seed),
    });
}

/// Cut, what is left is what was there.
#[test]
fn cutting_keeps_every_weight() {
    in_parallel(&Vec::from_iter(seeds(0..60)), |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let group = *GROUPS.choose(rng).unwrap();
        let (k, n) = (8 * rng.random_range(1..60), 8 * rng.random_range(1..12));
        let plain = Plain::<f16>::random(rng, [k, n], group);
        let plain = match seed % 3 {
            0 => plain.act_order(rng),
            _ => plain,
        };
        let whole = plain.gptq(GptqVersion::V1).pack().unwrap();
        let exact = plain.dequantize();

        let first = rng.random_range(0..=n);
        let columns = first..rng.random_range(first..=n);
        let cut = whole.columns(columns.clone()).unwrap();
        let expected: Vec<f32> = exact
            .chunks(n)
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect();
        assert_eq!(cut.dequantize(), expected, "columns {columns:?}");

        let rows = group.map_or(1, |group| group);
        let mut end = || (rng.random_range(0..=k.div_ceil(rows)) * rows).min(k);
        let (a, b) = (end(), end());
        let cut = whole.rows(a.min(b)..a.max(b));
        if whole.order().is_some() && (a.min(b), a.max(b)) != (0, k) {
            assert!(matches!(cut, Err(PackError::CutPermuted { .. })), "{cut:?}");
        } else {
            let expected = &exact[a.min(b) * n..a.max(b) * n];
            assert_eq!(cut.unwrap().dequantize(), expected, "rows {a} {b}");
        }
    });
}

#[test]
fn scales_change_their_type_by_rounding() {
    let rng = &mut StdRng::seed_from_u64(4);
    let mut plain = Plain::<f16>::random(rng, [64, 32], Some(32));
    let packed = plain.gptq(GptqVersion::V1).pack().unwrap();
    let rounded = packed.clone().with_scales(DType::BF16).unwrap();
    assert_eq!(rounded.scale_dtype(), DType::BF16);
    for group in 0..2 {
        for column in 0..32 {
            let nearest = bf16::from_f32(packed.scale(group, column)).to_f32();
            assert_eq!(rounded.scale(group, column), nearest);
        }
    }
    assert_eq!(packed.clone().with_scales(DType::F16).unwrap(), packed);
    plain.scales[3] = f16::MIN_POSITIVE_SUBNORMAL;
    let packed = plain.gptq(GptqVersion::V1).pack().unwrap();
    let there = packed.clone().with_scales(DType::BF16).unwrap();
    assert_eq!(
        there.scale(0, 3),
        packed.scale(0, 3),
        "bf16 reaches further down"
    );
}

/// Squared error of each group, and the largest error in steps.
fn errors(w: &[f32], n: usize, k: usize, packed: &Int4Weight) -> (Vec<f64>, f64) {
    let (got, rows) = (packed.dequantize(), packed.group());
    let mut squares = vec![0.0; n * k.div_ceil(rows)];
    let mut steps = 0.0f64;
    for column in 0..n {
        for row in 0..k {
            let error = f64::from(w[column * k + row]) - f64::from(got[row * n + column]);
            squares[row / rows * n + column] += error * error;
            let step = f64::from(packed.scale(row / rows, column)).abs();
            if error != 0.0 {
                steps = steps.max(error.abs() / step);
            }
        }
    }
    (squares, steps)
}

#[test]
fn quantizing_rounds_to_the_nearest_and_the_search_never_loses() {
    in_parallel(&Vec::from_iter(seeds(0..24)), |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (n, k) = (rng.random_range(1..40), rng.random_range(1..300));
        let shift = [0.0, 0.6][seed as usize / 2 % 2];
        let w: Vec<f32> = (0..n * k)
            .map(|_| match rng.random_bool(0.02) {
                true => rng.random_range(-8.0..8.0), // An outlier.
                false => rng.random_range(-1.0f32..1.0) + shift,
            })
            .collect();
        let dtype = [DType::F16, DType::BF16][seed as usize % 2];
        let meaning = [Codes::Symmetric, Codes::ZeroPoints][seed as usize / 4 % 2];
        let how = Quantizer::new(dtype)
            .group(*GROUPS.choose(rng).unwrap())
            .meaning(meaning);
        let plain = how.search(false).quantize(&w, n, k).unwrap();
        let (squares, steps) = errors(&w, n, k, &plain);
        // Half a step; the ends of the grid move with the scale's rounding (sixteen steps, of up to
        // 2⁻⁹ each), and with that of the zero point.
        let most = match meaning {
            Codes::Symmetric => 1.0, // The largest magnitude of the other sign may be clipped.
            _ => 1.04,
        };
        assert!(steps <= most, "{meaning:?} {dtype}: {steps} steps");
        let searched = how.search(true).quantize(&w, n, k).unwrap();
        let (better, _) = errors(&w, n, k, &searched);
        for (better, square) in better.iter().zip(&squares) {
            assert!(better <= square);
        }
        let sum = |squares: &[f64]| squares.iter().sum::<f64>();
        if k > 128 {
            assert!(
                sum(&better) < 0.99 * sum(&squares),
                "outliers should be clipped"
            );
        }
    });
}

/// Whatever the lengths and the contents: an answer or an error, and no panic.
#[test]
fn any_slices_are_answered() {
    let rng = &mut StdRng::seed_from_u64(11);
    let mut packed = 0;
    for _ in 0..4000 {
        let size = |rng: &mut StdRng| match rng.random_bool(0.02) {
            true => *[usize::MAX, usize::MAX / 8, 1 << 40, 1 << 31]
                .choose(rng)
                .unwrap(),
            false => *[0, 1, 7, 8, 16, 31, 32, 33, 64, 96].choose(rng).unwrap(),
        };
        let (k, n) = (size(rng), size(rng));
        let group = match rng.random_bool(0.2) {
            true => None,
            false => Some(*[0, 1, 16, 32, 64, 128, usize::MAX].choose(rng).unwrap()),
        };
        let groups = group.map_or(1, |group| if group == 0 { 0 } else { k.div_ceil(group) });
        // Mostly what the shape calls for.
        let mut words = |sizes: [usize; 2]| -> Vec<i32> {
            let mut length = sizes[0].saturating_mul(sizes[1]).min(4000);
            if rng.random_bool(0.05) {
                length = length.saturating_add_signed(rng.random_range(-2i32..3) as isize);
            }
            (0..length).map(|_| rng.random()).collect()
        };
        let (gptq, awq) = (words([k / 8, n]), words([k, n / 8]));
        let compressed = words([n, k.div_ceil(8)]);
        let (zeros, down) = (words([groups, n / 8]), words([n.div_ceil(8), groups]));
        let blocks: Vec<u8> = words([n, k / 32 * 18])
            .iter()
            .map(|&word| word as u8)
            .collect();
        let scales: Vec<f16> = words([groups, n])
            .iter()
            .map(|&bits| f16::from_bits(bits as u16 & 0xbfff))
            .collect();
        let g_idx: Vec<i32> = words([k, 1]).iter().map(|&group| group % 2).collect();
        let answers = [
            Gptq {
                k,
                n,
                group,
                qweight: &gptq,
                qzeros: &zeros,
                scales: &scales,
                g_idx: rng.random_bool(0.3).then_some(&g_idx),
                version: GptqVersion::V1,
            }
            .pack(),
            Awq {
                k,
                n,
                group,
                qweight: &awq,
                qzeros: &zeros,
                scales: &scales,
            }
            .pack(),
            CompressedTensors {
                k,
                n,
                group,
                weight_packed: &compressed,
                weight_scale: &scales,
                weight_zero_point: Some(&down),
            }
            .pack(),
            Q4_0 {
                k,
                n,
                blocks: &blocks,
            }
            .pack(),
        ];
        for answer in answers {
            match answer {
                Ok(weight) => {
                    assert!(weight.dequantize().iter().all(|x| x.is_finite()));
                    packed += 1;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(packed > 3000, "{packed}: too few to mean anything");
}
