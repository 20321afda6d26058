//! Formats whose codes are places in a table: against other implementations' numbers
//! (scripts/codebook-data.py), and packers written from the formats' descriptions.
//!
//! `INFER_KERNELS_CASES=FIRST..END` runs other seeds than a quick run does.

use crate::common::{in_parallel, seeds};
use infer_kernels::int4::load::{Absmax, BitsAndBytes, BnbType, GgmlMxfp4, Mxfp4, Nvfp4};
use infer_kernels::int4::{BlockScales, Codebook, CodebookWeight, MatrixScale};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

fn data() -> Value {
    serde_json::from_str(include_str!("../data/codebooks.json")).unwrap()
}

fn numbers(of: &Value) -> Vec<u32> {
    let all = of.as_array().unwrap().iter();
    all.map(|number| number.as_u64().unwrap() as u32).collect()
}

fn bytes(of: &Value) -> Vec<u8> {
    numbers(of).into_iter().map(|byte| byte as u8).collect()
}

fn floats(of: &Value) -> Vec<f32> {
    numbers(of).into_iter().map(f32::from_bits).collect()
}

fn size(of: &Value) -> usize {
    of.as_u64().unwrap() as usize
}

/// `[n, k]`, as checkpoints have weights, to `[k, n]`.
fn transposed<T: Copy>(all: &[T], k: usize) -> Vec<T> {
    let columns = all.len() / k.max(1);
    let at = |i: usize| all[i % columns * k + i / columns];
    (0..all.len()).map(at).collect()
}

#[track_caller]
fn same(got: &[f32], exact: &[f32]) {
    let bits = |all: &[f32]| Vec::from_iter(all.iter().map(|x| x.to_bits()));
    assert_eq!(bits(got), bits(exact));
}

#[test]
fn tables_are_those_of_other_implementations() {
    let data = data();
    same(&Codebook::E2m1.values(), &floats(&data["e2m1"]));
    same(&Codebook::Fp4.values(), &floats(&data["fp4"]));
    let quantiles = data["nf4"].as_array().unwrap();
    for (value, quantile) in Codebook::Nf4.values().iter().zip(quantiles) {
        let quantile = quantile.as_f64().unwrap();
        assert!((f64::from(*value) - quantile).abs() < 5e-7, "{value}");
    }
    for book in [Codebook::E2m1, Codebook::Nf4, Codebook::Fp4] {
        assert_eq!(book.values()[usize::from(book.nothing())].to_bits(), 0);
    }
}

/// Codes 0 to 15, the first in the lower half.
const EVERY_CODE: [u8; 8] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe];

#[test]
fn every_code_times_every_scale() {
    let data = data();
    let (e2m1, e8m0) = (floats(&data["e2m1"]), floats(&data["e8m0"]));
    let scales = Vec::from_iter(0..255);
    let layer = Mxfp4 {
        k: 32,
        n: 255,
        blocks: &EVERY_CODE.repeat(2 * 255),
        scales: &scales,
    };
    let packed = layer.pack().unwrap();
    let exact = |row: usize, column: usize| e2m1[row % 16] * e8m0[column];
    let exact = Vec::from_iter((0..32 * 255).map(|i| exact(i / 255, i % 255)));
    same(&packed.dequantize(), &exact);
    // Products of a power of two and two bits are exact: those of f64 are the same.
    for (i, exact) in exact.iter().enumerate() {
        let wide = f64::from(e2m1[i / 255 % 16]) * f64::from(e8m0[i % 255]);
        assert!(wide == f64::from(*exact) || wide.abs() > f64::from(f32::MAX));
    }

    let e4m3 = floats(&data["e4m3"]);
    for (bits, value) in e4m3.iter().enumerate() {
        let layer = Nvfp4 {
            k: 16,
            n: 1,
            weight: &EVERY_CODE,
            weight_scale: &[bits as u8],
            matrix_scale: MatrixScale::Times(1.0),
        };
        match layer.pack() {
            Ok(packed) => {
                let exact = Vec::from_iter(e2m1.iter().map(|code| code * value));
                same(&packed.dequantize(), &exact);
            }
            Err(_) => assert!(value.is_nan(), "{bits:#x}"),
        }
    }
}

/// Blocks that llama.cpp's package packed, and NVFP4 by numpy's arithmetic.
#[test]
fn what_others_packed_is_what_they_read() {
    let data = data();
    let of = &data["mxfp4"];
    let (k, n) = (size(&of["k"]), size(&of["n"]));
    let blocks = bytes(&of["blocks"]);
    let packed = GgmlMxfp4 {
        k,
        n,
        blocks: &blocks,
    };
    let packed = packed.pack().unwrap();
    // llama.cpp has no negative zero.
    let got = Vec::from_iter(packed.dequantize().iter().map(|x| x + 0.0));
    same(&got, &transposed(&floats(&of["exact"]), k));

    let of = &data["nvfp4"];
    let (k, n) = (size(&of["k"]), size(&of["n"]));
    let (weight, scales) = (bytes(&of["weight"]), bytes(&of["weight_scale"]));
    let matrix = f32::from_bits(of["matrix"].as_u64().unwrap() as u32);
    for (matrix_scale, exact) in [
        (MatrixScale::Times(matrix), &of["times"]),
        (MatrixScale::Over(matrix), &of["over"]),
    ] {
        let layer = Nvfp4 {
            k,
            n,
            weight: &weight,
            weight_scale: &scales,
            matrix_scale,
        };
        let packed = layer.pack().unwrap();
        same(&packed.dequantize(), &transposed(&floats(exact), k));
        assert_eq!(packed.bytes(), 64 * 32 / 2 + 4 * 32 + 4);
    }
}

/// Codes `[n, k]`, in pairs: which of a pair is in the lower half is said by its shift.
fn pairs(codes: &[u8], shifts: [u32; 2]) -> Vec<u8> {
    let pair = |pair: &[u8]| pair[0] << shifts[0] | pair[1] << shifts[1];
    codes.chunks(2).map(pair).collect()
}

/// A matrix by what a checkpoint has: codes `[n, k]` and a scale of each.
struct Case {
    packed: CodebookWeight,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

fn microscaling(rng: &mut StdRng) -> Vec<Case> {
    let (k, n) = (32 * rng.random_range(0..7), rng.random_range(0..70));
    let codes = Vec::from_iter((0..n * k).map(|_| rng.random_range(0..16u8)));
    let scales = Vec::from_iter((0..n * k / 32).map(|_| rng.random_range(0..250u8)));
    let blocks = pairs(&codes, [0, 4]);
    let mxfp4 = Mxfp4 {
        k,
        n,
        blocks: &blocks,
        scales: &scales,
    };
    let mut ggml = Vec::new();
    for (codes, scale) in codes.chunks(32).zip(&scales) {
        ggml.push(*scale);
        ggml.extend((0..16).map(|i| codes[i] | codes[i + 16] << 4));
    }
    let ggml = GgmlMxfp4 {
        k,
        n,
        blocks: &ggml,
    };
    let packed = mxfp4.pack().unwrap();
    assert_eq!(ggml.pack().unwrap(), packed);
    let power = |i: usize| 2f64.powi(i32::from(scales[i / 32]) - 127) as f32;
    let mxfp4 = Case {
        packed,
        scales: (0..n * k).map(power).collect(),
        codes,
    };

    let (k, n) = (16 * rng.random_range(0..14), rng.random_range(0..70));
    let codes = Vec::from_iter((0..n * k).map(|_| rng.random_range(0..16u8)));
    // Powers of two and halves between, of both signs: bits that need no table.
    let powers = Vec::from_iter((0..n * k / 16).map(|_| rng.random_range(0..120u8) << 2 | 8));
    let value = |bits: u8| {
        let magnitude =
            (1.0 + f32::from(bits >> 2 & 1) / 2.0) * 2f32.powi(i32::from(bits >> 3 & 15) - 7);
        if bits > 127 { -magnitude } else { magnitude }
    };
    let matrix = rng.random_range(1e-6f32..1.0);
    let layer = Nvfp4 {
        k,
        n,
        weight: &pairs(&codes, [0, 4]),
        weight_scale: &powers,
        matrix_scale: MatrixScale::Over(matrix),
    };
    let nvfp4 = Case {
        packed: layer.pack().unwrap(),
        scales: (0..n * k).map(|i| value(powers[i / 16]) / matrix).collect(),
        codes,
    };
    vec![mxfp4, nvfp4]
}

fn bitsandbytes(rng: &mut StdRng) -> Vec<Case> {
    let blocksize = *[64, 128, 256].choose(rng).unwrap();
    let (k, n) = (
        blocksize * rng.random_range(0..4usize),
        rng.random_range(0..200),
    );
    let codes = Vec::from_iter((0..n * k).map(|_| rng.random_range(0..16u8)));
    let weight = pairs(&codes, [4, 0]);
    let blocks = n * k / blocksize;
    let absmax = Vec::from_iter((0..blocks).map(|_| rng.random_range(1e-4f32..0.1)));
    let nested = Vec::from_iter((0..blocks).map(|_| rng.random::<u8>()));
    let quant_map: [f32; 256] = std::array::from_fn(|_| rng.random_range(-1.0..1.0));
    let nested_absmax =
        Vec::from_iter((0..blocks.div_ceil(256)).map(|_| rng.random_range(0.01f32..0.2)));
    let offset = rng.random_range(0.0..0.1);
    let nested_scale = |block: usize| {
        let scaled = quant_map[usize::from(nested[block])] * nested_absmax[block / 256];
        scaled + offset
    };
    let layer = BitsAndBytes {
        k,
        n,
        quant_type: BnbType::Nf4,
        blocksize,
        weight: &weight,
        absmax: Absmax::Plain(&absmax),
    };
    let plain = Case {
        packed: layer.pack().unwrap(),
        codes: codes.clone(),
        scales: (0..n * k).map(|i| absmax[i / blocksize]).collect(),
    };
    let layer = BitsAndBytes {
        quant_type: BnbType::Fp4,
        absmax: Absmax::Nested {
            absmax: &nested,
            quant_map: &quant_map,
            nested_absmax: &nested_absmax,
            offset,
        },
        ..layer
    };
    let twice = Case {
        packed: layer.pack().unwrap(),
        scales: (0..n * k).map(|i| nested_scale(i / blocksize)).collect(),
        codes,
    };
    vec![plain, twice]
}

impl Case {
    fn check(&self, rng: &mut StdRng) {
        let Case {
            packed,
            codes,
            scales,
        } = self;
        let (k, n, extent) = (packed.k(), packed.n(), packed.extent());
        let codebook = packed.codebook();
        assert_eq!(packed.unpack(), transposed(codes, k));
        let values = codes
            .iter()
            .map(|&code| codebook.values()[usize::from(code)]);
        let exact = Vec::from_iter(values.zip(scales).map(|(value, scale)| value * scale));
        let exact = transposed(&exact, k);
        same(&packed.dequantize(), &exact);
        for row in 0..extent.padded_k() {
            for column in 0..extent.padded_n() {
                let (word, shift) = extent.code_at(row, column);
                if row >= k || column >= n {
                    let code = packed.codes()[word] >> shift & 15;
                    assert_eq!(code, u32::from(codebook.nothing()));
                }
            }
        }
        let scales = match packed.scales() {
            BlockScales::E8m0(bits) => bits.len(),
            BlockScales::E4m3 { bits, .. } => bits.len() + 4,
            BlockScales::F32(scales) => 4 * scales.len(),
            scales => panic!("{scales:?}"),
        };
        assert_eq!(packed.bytes(), 4 * packed.codes().len() + scales);

        let first = rng.random_range(0..=n);
        let columns = first..rng.random_range(first..=n);
        let rows = exact.chunks(n.max(1));
        let cut = Vec::from_iter(rows.flat_map(|row| row[columns.clone()].to_vec()));
        same(&packed.columns(columns).unwrap().dequantize(), &cut);
        let group = packed.group();
        let mut end = || (rng.random_range(0..=k.div_ceil(group)) * group).min(k);
        let (a, b) = (end(), end());
        let (a, b) = (a.min(b), a.max(b));
        let cut = packed.rows(a..b).unwrap();
        same(&cut.dequantize(), &exact[a * n..b * n]);
    }
}

#[test]
fn what_is_loaded_is_what_was_stored() {
    in_parallel(&Vec::from_iter(seeds(0..60)), |&seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        for case in microscaling(rng).iter().chain(&bitsandbytes(rng)) {
            case.check(rng);
        }
    });
}

/// Whatever the lengths and the contents: an answer or an error, and no panic.
#[test]
fn any_slices_are_answered() {
    let rng = &mut StdRng::seed_from_u64(12);
    let mut packed = 0;
    for _ in 0..3000 {
        let size = |rng: &mut StdRng| match rng.random_bool(0.02) {
            true => *[usize::MAX, usize::MAX / 8, 1 << 40, 1 << 31]
                .choose(rng)
                .unwrap(),
            false => *[0, 1, 8, 16, 31, 32, 64, 128].choose(rng).unwrap(),
        };
        let (k, n) = (size(rng), size(rng));
        let blocksize = *[0, 8, 16, 32, 64, 64, 128, usize::MAX].choose(rng).unwrap();
        // Mostly what the shape calls for.
        let mut some = |rows: usize, columns: usize| -> Vec<u8> {
            let mut length = rows.saturating_mul(columns).min(20_000);
            if rng.random_bool(0.05) {
                length = length.saturating_add_signed(rng.random_range(-2i32..3) as isize);
            }
            (0..length).map(|_| rng.random()).collect()
        };
        let (codes, ggml) = (some(n, k / 2), some(n, k / 32 * 17));
        let (by_32, by_16) = (some(n, k / 32), some(n, k / 16));
        let absmax = some(n, k / blocksize.max(1));
        let wide = |bytes: &[u8]| Vec::from_iter(bytes.iter().map(|&byte| f32::from(byte)));
        let (quant_map, nested) = (
            wide(&some(1, 256)),
            wide(&some(1, absmax.len().div_ceil(256))),
        );
        let matrix = *[1.0, -2.5, 0.0, f32::MIN_POSITIVE, f32::MAX, f32::NAN]
            .choose(rng)
            .unwrap();
        let bnb = BitsAndBytes {
            k,
            n,
            quant_type: *[BnbType::Nf4, BnbType::Fp4].choose(rng).unwrap(),
            blocksize,
            weight: &codes,
            absmax: Absmax::Plain(&wide(&absmax)),
        };
        let nested = Absmax::Nested {
            absmax: &absmax,
            quant_map: &quant_map,
            nested_absmax: &nested,
            offset: 0.5,
        };
        let nvfp4 = Nvfp4 {
            k,
            n,
            weight: &codes,
            weight_scale: &by_16,
            matrix_scale: MatrixScale::Times(matrix),
        };
        let mxfp4 = Mxfp4 {
            k,
            n,
            blocks: &codes,
            scales: &by_32,
        };
        let answers = [
            mxfp4.pack(),
            GgmlMxfp4 {
                k,
                n,
                blocks: &ggml,
            }
            .pack(),
            nvfp4.pack(),
            Nvfp4 {
                matrix_scale: MatrixScale::Over(matrix),
                ..nvfp4
            }
            .pack(),
            bnb.pack(),
            BitsAndBytes {
                absmax: nested,
                ..bnb
            }
            .pack(),
        ];
        for answer in answers {
            match answer {
                Ok(weight) => {
                    assert!(weight.dequantize().iter().all(|x| !x.is_nan()));
                    packed += 1;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(packed > 4000, "{packed}: too few to mean anything");
}
