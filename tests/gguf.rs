//! GGUF files: what is read, what is refused, and that no bytes whatever do harm.
//!
//! `INFER_KERNELS_CASES=FIRST..END` runs other seeds than a quick run does.
#![cfg(all(feature = "gguf", feature = "emulator"))]

mod common;

use std::alloc::System;

use common::blocks::{dequantize, halves, random};
use common::seeds;
use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::blocks::{BlockFormat, PackError};
use infer_kernels::gguf::{GgufError, GgufFile, TensorType};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The numbers of types, as the format has them.
const TYPES: [(u32, BlockFormat); 8] = [
    (2, BlockFormat::Q4_0),
    (3, BlockFormat::Q4_1),
    (6, BlockFormat::Q5_0),
    (7, BlockFormat::Q5_1),
    (8, BlockFormat::Q8_0),
    (12, BlockFormat::Q4_K),
    (13, BlockFormat::Q5_K),
    (14, BlockFormat::Q6_K),
];

/// A file in the making, written from the format's description.
#[derive(Default)]
struct Writer {
    pairs: Vec<u8>,
    keys: u64,
    infos: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.keys += 1;
        let pair = [&string(key), &kind.to_le_bytes()[..], value].concat();
        self.pairs.extend(pair);
    }

    fn tensor(&mut self, name: &str, kind: u32, dims: &[u64], bytes: &[u8]) {
        self.tensors += 1;
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.infos.extend(string(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        self.infos
            .extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
    }

    fn finish(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(&self.pairs);
        file.extend(&self.infos);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

/// A file with something of everything, and where its tensors' bytes begin.
fn sample(rng: &mut StdRng) -> (Vec<u8>, usize) {
    let mut file = Writer::default();
    file.pair("general.architecture", 8, &string("gemma3"));
    file.pair("small", 0, &[7]);
    file.pair("negative", 5, &(-3i32).to_le_bytes());
    file.pair("large", 10, &u64::MAX.to_le_bytes());
    file.pair("third", 6, &(1.0f32 / 3.0).to_le_bytes());
    file.pair("half", 12, &0.5f64.to_le_bytes());
    file.pair("yes", 7, &[1]);
    let words = [string("a"), string(""), string("日本")].concat();
    let header = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    file.pair("words", 9, &[header(8, 3), words].concat());
    let scores = [0.0f32, -1.0, -2.5].map(f32::to_le_bytes).concat();
    file.pair("scores", 9, &[header(6, 3), scores].concat());
    let floats = [0.5, -2.0, 3.25];
    let f32s = floats.map(f32::to_le_bytes).concat();
    let f16s = floats.map(|x| f16::from_f32(x).to_le_bytes()).concat();
    let bf16s = floats.map(|x| bf16::from_f32(x).to_le_bytes()).concat();
    file.tensor("f32", 0, &[3], &f32s);
    file.tensor("f16", 1, &[3], &f16s);
    file.tensor("bf16", 30, &[3, 1], &bf16s);
    for (kind, format) in TYPES {
        let (k, n) = (format.rows(), 3);
        let bytes = random(rng, format, [k, n], 1.0);
        file.tensor(&format.to_string(), kind, &[k as u64, n as u64], &bytes);
    }
    file.tensor("codebook", 20, &[32, 1], &[0; 18]);
    let bytes = file.finish();
    let data = bytes.len() - file.data.len();
    (bytes, data)
}

#[test]
fn metadata_is_typed_and_never_rounded() {
    let (bytes, _) = sample(&mut StdRng::seed_from_u64(0));
    let file = GgufFile::parse(&bytes).unwrap();
    assert_eq!(file.get("general.architecture"), Ok("gemma3"));
    assert_eq!(file.get("small"), Ok(7usize));
    assert_eq!(file.get("small"), Ok(7i64));
    assert_eq!(file.get("negative"), Ok(-3i64));
    assert_eq!(file.get("large"), Ok(u64::MAX));
    assert_eq!(file.get("third"), Ok(1.0f32 / 3.0));
    assert_eq!(file.get("third"), Ok(f64::from(1.0f32 / 3.0)));
    assert_eq!(file.get("half"), Ok(0.5f64));
    assert_eq!(file.get("yes"), Ok(true));
    assert_eq!(file.get("words"), Ok(vec!["a", "", "日本"]));
    assert_eq!(file.get("scores"), Ok(vec![0.0f32, -1.0, -2.5]));
    assert_eq!(file.find::<u32>("nothing"), Ok(None));
    assert_eq!(file.keys().count(), 9);
    let refused = |error: GgufError| error.to_string();
    assert_eq!(
        refused(file.get::<u32>("nothing").unwrap_err()),
        r#"the file has no key "nothing""#
    );
    assert_eq!(
        refused(file.get::<u32>("negative").unwrap_err()),
        "negative: expected an integer that fits u32, got I32(-3)"
    );
    assert_eq!(
        refused(file.get::<i64>("large").unwrap_err()),
        "large: expected an integer that fits i64, got U64(18446744073709551615)"
    );
    for key in ["half", "small", "words"] {
        assert!(matches!(
            file.find::<f32>(key),
            Err(GgufError::Value { .. })
        ));
    }
    assert_eq!(
        refused(file.get::<Vec<f32>>("words").unwrap_err()),
        "words: expected an array of the right type, got 3 × String"
    );
}

#[test]
fn tensors_are_what_was_written() {
    let (bytes, data) = sample(&mut StdRng::seed_from_u64(1));
    let file = GgufFile::parse(&bytes).unwrap();
    assert_eq!(file.tensors().len(), 12);
    for (name, dtype) in [
        ("f32", DType::F32),
        ("f16", DType::F16),
        ("bf16", DType::BF16),
    ] {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype, TensorType::Float(dtype));
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        assert_eq!(file.floats(name, &dims), Ok(vec![0.5, -2.0, 3.25]));
    }
    for (_, format) in TYPES {
        let name = format.to_string();
        let (k, n) = (format.rows(), 3);
        let tensor = file.tensor(&name).unwrap();
        assert_eq!(tensor.dtype, TensorType::Blocks(format));
        assert_eq!(tensor.bytes.len(), n * format.bytes());
        // Not a copy.
        assert!(
            bytes[data..]
                .as_ptr_range()
                .contains(&tensor.bytes.as_ptr())
        );
        let expected = dequantize(format, [k, n], tensor.bytes);
        assert_eq!(file.blocks(&name, k, n).unwrap().dequantize(), expected);
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let rng = &mut StdRng::seed_from_u64(2);
    let (bytes, _) = sample(rng);
    let file = GgufFile::parse(&bytes).unwrap();
    let blocks = |name: &str, k, n| file.blocks(name, k, n).unwrap_err().to_string();
    assert_eq!(
        blocks("codebook", 32, 1),
        "codebook: expected Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K, got IQ4_NL"
    );
    assert_eq!(
        blocks("f16", 3, 1),
        "f16: expected Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K, got f16"
    );
    assert_eq!(
        blocks("Q8_0", 64, 3),
        "Q8_0: expected [64, 3], got [32, 3], the innermost first"
    );
    assert_eq!(blocks("none", 1, 1), r#"the file has no tensor "none""#);
    assert_eq!(
        file.floats("Q8_0", &[32, 3]).unwrap_err().to_string(),
        "Q8_0: expected f32, f16 or bf16, got Q8_0"
    );
    assert!(matches!(
        file.floats("f32", &[3, 1]),
        Err(GgufError::Shape { .. })
    ));
    let parse = |bytes: &[u8]| GgufFile::parse(bytes).unwrap_err();
    assert_eq!(parse(b""), GgufError::Truncated);
    let magic = GgufError::Magic {
        expected: u32::from_le_bytes(*b"GGUF"),
        got: u32::from_le_bytes(*b"GGML"),
    };
    let mut other = bytes.clone();
    other[..4].copy_from_slice(b"GGML");
    assert_eq!(parse(&other), magic);
    let mut newer = bytes.clone();
    newer[4] = 9;
    assert_eq!(parse(&newer), GgufError::Version { got: 9 });
    assert_eq!(parse(&bytes[..bytes.len() - 1]), GgufError::Truncated);
    // No such type.
    let mut file = Writer::default();
    file.tensor("new", 999, &[32], &[0; 32]);
    assert!(matches!(parse(&file.finish()), GgufError::Corrupt { .. }));
    // Twice the same name.
    let mut file = Writer::default();
    file.tensor("x", 0, &[1], &[0; 4]);
    file.tensor("x", 0, &[1], &[0; 4]);
    assert!(matches!(parse(&file.finish()), GgufError::Corrupt { .. }));
}

#[test]
fn a_scale_that_is_no_number_is_refused() {
    let rng = &mut StdRng::seed_from_u64(3);
    for (kind, format) in TYPES {
        for &at in halves(format) {
            for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
                let (k, n) = (format.rows(), 2);
                let mut bytes = random(rng, format, [k, n], 1.0);
                bytes[format.bytes() + at..][..2].copy_from_slice(&bad.to_le_bytes());
                let mut file = Writer::default();
                file.tensor("w", kind, &[k as u64, n as u64], &bytes);
                let bytes = file.finish();
                let error = GgufFile::parse(&bytes).unwrap().blocks("w", k, n);
                let Err(GgufError::Pack { tensor, source }) = error else {
                    panic!("{format} with {bad}: {error:?}");
                };
                assert_eq!(tensor, "w");
                assert!(matches!(source, PackError::Scale { column: 1, .. }));
            }
        }
    }
}

/// Uses everything that a file seems to have.
fn use_all(bytes: &[u8]) -> bool {
    let Ok(file) = GgufFile::parse(bytes) else {
        return false;
    };
    for key in file.keys() {
        let _ = file.find::<&str>(key);
        let _ = file.find::<usize>(key);
        let _ = file.find::<Vec<&str>>(key);
        let _ = file.find::<Vec<f32>>(key);
    }
    for tensor in file.tensors() {
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let _ = file.floats(tensor.name, &dims);
        if let [k, n] = dims[..] {
            let _ = file.blocks(tensor.name, k, n);
        }
    }
    true
}

/// Bits, bytes, numbers and lengths of a good file are changed, parts of it are lost. Nothing panics,
/// and nobody allocates what a lying length asks for.
#[test]
fn no_bytes_do_harm() {
    // Lies of the sizes above would ask for far more. Other tests allocate meanwhile.
    const MOST: usize = 16 << 20;
    let (mut read, seeds) = (0, seeds(0..1500));
    for seed in seeds.clone() {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (mut bytes, data) = sample(rng);
        for _ in 0..rng.random_range(1..4) {
            let header = rng.random_bool(0.4);
            let at = rng.random_range(0..if header { data } else { bytes.len() });
            let interesting: u64 = *[0, 1, 31, 1 << 16, 1 << 31, 1 << 40, 1 << 63, u64::MAX]
                .choose(rng)
                .unwrap();
            match rng.random_range(0..12) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2..10 => {
                    let width = [4, 8][rng.random_range(0..2)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&interesting.to_le_bytes()[..width]);
                }
                10 => bytes.truncate(at.max(data)),
                _ => bytes.truncate(at),
            }
            if bytes.len() < data {
                break;
            }
        }
        let region = Region::new(ALLOCATOR);
        read += u64::from(use_all(&bytes));
        let allocated = region.change().bytes_allocated;
        assert!(allocated < MOST, "seed {seed}: {allocated} bytes");
    }
    println!("{read} of {} files could be read", seeds.end - seeds.start);
    // Else the mutations are too rough to reach what comes after parsing.
    assert!(read * 10 > seeds.end - seeds.start);
}
