//! A real file: Gemma 3 270M, Q4_K_M. `scripts/fetch-model.sh` brings it; without it these tests do
//! nothing but say so. With `INFER_KERNELS_MODEL`, the file's path, they must find it.

#[path = "../../examples/generate/tokenizer.rs"]
mod tokenizer;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::common::blocks::dequantize;
use crate::common::blocks_case::Case;
use crate::common::gemm::Matrix;
use crate::common::{device, in_parallel};
use half::bf16;
use infer_kernels::DType;
use infer_kernels::blocks::{BlockFormat, BlockProblem, BlockWeight};
use infer_kernels::gguf::{GgufFile, GgufTensor, TensorType};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokenizer::{Text, Tokenizer};

static BYTES: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    let given = std::env::var_os("INFER_KERNELS_MODEL");
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/gemma-3-270m-q4_k_m.gguf"
    );
    let path = given.as_ref().map_or(default.into(), PathBuf::from);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let told = format!("{}: {error}", path.display());
            assert!(given.is_none(), "{told}");
            // Past the harness, which keeps what a test prints to itself.
            let mut loud = std::io::stderr();
            let _ = writeln!(
                loud,
                "NOTHING IS TESTED: {told}; scripts/fetch-model.sh brings the file"
            );
            None
        }
    }
});

/// The file, or nothing.
fn model() -> Option<&'static GgufFile<'static>> {
    static FILE: LazyLock<Option<GgufFile<'static>>> = LazyLock::new(|| {
        let bytes = BYTES.as_ref()?;
        Some(GgufFile::parse(bytes).unwrap())
    });
    FILE.as_ref()
}

#[test]
fn metadata_is_that_of_the_model() {
    let Some(file) = model() else { return };
    assert_eq!(file.get("general.architecture"), Ok("gemma3"));
    for (key, expected) in [
        ("block_count", 18),
        ("embedding_length", 640),
        ("feed_forward_length", 2048),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 256),
        ("attention.value_length", 256),
        ("attention.sliding_window", 512),
        ("context_length", 32_768),
    ] {
        assert_eq!(file.get(&format!("gemma3.{key}")), Ok(expected as usize));
    }
    assert_eq!(
        file.get("gemma3.attention.layer_norm_rms_epsilon"),
        Ok(1e-6f32)
    );
    assert_eq!(file.get("gemma3.rope.freq_base"), Ok(1e6f32));
}

/// Inputs and outputs of a matrix.
fn sizes(tensor: &GgufTensor<'_>) -> [usize; 2] {
    [tensor.dims[0] as usize, tensor.dims[1] as usize]
}

/// Every tensor is read whole, and means what its format says: all of the first layer's attention is
/// compared, of other matrices some columns.
#[test]
fn every_tensor_is_exact() {
    let Some(file) = model() else { return };
    let tensors: Vec<_> = file.tensors().collect();
    in_parallel(&tensors, |tensor| {
        let (name, bytes) = (tensor.name, tensor.bytes);
        match tensor.dtype {
            TensorType::Float(DType::F32) => {
                let got = file.floats(name, &[tensor.dims[0] as usize]).unwrap();
                let expected = bytes.chunks(4).map(|x| x.try_into().unwrap());
                assert!(got.iter().copied().eq(expected.map(f32::from_le_bytes)));
                assert!(got.iter().all(|x| x.is_finite()), "{name}");
            }
            TensorType::Blocks(format) => {
                let [k, n] = sizes(tensor);
                let w = file.blocks(name, k, n).unwrap();
                if name.starts_with("blk.0.attn") {
                    assert_eq!(w.dequantize(), dequantize(format, [k, n], bytes), "{name}");
                    return;
                }
                let column_bytes = bytes.len() / n;
                for column in (0..n).step_by(n / 24 + 1).chain([n - 1]) {
                    let of_column = &bytes[column * column_bytes..][..column_bytes];
                    for (row, expected) in dequantize(format, [k, 1], of_column)
                        .into_iter()
                        .enumerate()
                    {
                        let product = w.scale(row, column) * f32::from(w.code(row, column));
                        let got = match format.scales().has_offsets() {
                            true => product + w.offset(row, column),
                            false => product,
                        };
                        assert_eq!(got, expected, "{name} [{row}, {column}]");
                    }
                }
            }
            other => panic!("{name}: {other}"),
        }
    });
    // What the file is known to have.
    let mut elements = BTreeMap::<String, u64>::new();
    for tensor in tensors {
        *elements.entry(tensor.dtype.to_string()).or_default() +=
            tensor.dims.iter().product::<u64>();
    }
    println!("{elements:?}");
    let types: Vec<&str> = elements.keys().map(String::as_str).collect();
    assert_eq!(types, ["Q4_K", "Q5_0", "Q6_K", "Q8_0", "f32"]);
}

/// Products with weights of each format of the file, against f64.
#[test]
fn products_are_right() {
    let Some(file) = model() else { return };
    let device = device();
    let rng = &mut StdRng::seed_from_u64(11);
    for (name, format) in [
        ("blk.0.attn_v.weight", BlockFormat::Q8_0),
        ("blk.3.ffn_gate.weight", BlockFormat::Q5_0),
        ("blk.9.attn_output.weight", BlockFormat::Q4_K),
        ("blk.17.ffn_down.weight", BlockFormat::Q6_K),
    ] {
        let [k, n] = sizes(&file.tensor(name).unwrap());
        let w: BlockWeight = file.blocks(name, k, n).unwrap();
        assert_eq!(w.format(), format, "{name}");
        let problem = BlockProblem::of(&w, DType::BF16, 3);
        let x = Matrix::<bf16>::random(rng, [3, k], 8);
        let margin = Case::plain(problem, x, w).check(&device);
        let margin = margin.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {:.0} % of the bound", 100.0 * margin.used);
    }
}

/// Texts, their tokens and the bytes of those, as llama.cpp has them: `scripts/model-facts.py`.
#[test]
fn texts_have_the_tokens_that_another_engine_gives_them() {
    let Some(file) = model() else { return };
    let tokenizer = Tokenizer::from_gguf(file).unwrap();
    let facts: serde_json::Value =
        serde_json::from_str(include_str!("../data/gemma3-tokens.json")).unwrap();
    let numbers = |of: &serde_json::Value| -> Vec<u64> {
        let all = of.as_array().unwrap().iter();
        all.map(|of| of.as_u64().unwrap()).collect()
    };
    for row in facts.as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens[0], 2, "the beginning of a text");
        let got: Vec<u64> = tokens[1..].iter().map(|&token| token.into()).collect();
        assert_eq!(got, numbers(&row["ids"]), "{text:?}");
        let bytes = numbers(&row["bytes"])
            .into_iter()
            .map(|byte| byte as u8)
            .collect();
        let expected = String::from_utf8(bytes).unwrap();
        assert_eq!(decode(&tokenizer, &tokens[1..]), expected, "{text:?}");
    }
    assert_eq!(tokenizer.end(), 1);
    any_text_comes_back(&tokenizer);
}

fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut text = Text::default();
    let pieces = tokens
        .iter()
        .map(|&token| tokenizer.push(&mut text, token).unwrap());
    pieces.collect()
}

/// Whatever characters a text has, its tokens give it back.
fn any_text_comes_back(tokenizer: &Tokenizer) {
    let rng = &mut StdRng::seed_from_u64(12);
    for _ in 0..500 {
        let len = rng.random_range(0..60);
        let text: String = (0..len)
            .map(|_| match rng.random_range(0..4) {
                0 => ' ',
                1 => rng.random_range('\0'..'\u{80}'),
                2 => rng.random_range('\u{80}'..'\u{2000}'),
                _ => rng.random(),
            })
            .filter(|&c| c != '\u{2581}') // Which stands for a space.
            .collect();
        let tokens = tokenizer.encode(&text).unwrap();
        assert_eq!(decode(tokenizer, &tokens[1..]), text);
    }
}
