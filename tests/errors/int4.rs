//! What 4-bit weights can be refused for.

use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::int4::load::{
    Absmax, Awq, BitsAndBytes, BnbType, CompressedTensors, Gptq, GptqVersion, Mxfp4, Nvfp4, Q4_0,
};
use infer_kernels::int4::{MatrixScale, PackError, Quantizer};

/// 64 rows by 16 columns, in groups of 32 rows.
const LAYER: Gptq<'static, f16> = Gptq {
    k: 64,
    n: 16,
    group: Some(32),
    qweight: &[0x1234_5678; 8 * 16],
    qzeros: &[0; 2 * 2],
    scales: &[f16::ONE; 2 * 16],
    g_idx: None,
    version: GptqVersion::V2,
};

fn told<T: std::fmt::Debug>(result: Result<T, PackError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn nothing_wrong_is_packed() {
    let packed = LAYER.pack().unwrap();
    assert_eq!((packed.k(), packed.n(), packed.group()), (64, 16, 32));
    let column: Vec<f32> = packed
        .dequantize()
        .iter()
        .step_by(16)
        .copied()
        .take(8)
        .collect();
    assert_eq!(column, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
}

#[test]
fn groups_that_the_format_does_not_have() {
    for got in [0, 1, 8, 17, 48, 100] {
        let layer = Awq {
            k: 192,
            n: 0,
            group: Some(got),
            qweight: &[],
            qzeros: &[],
            scales: &[f16::ONE; 0],
        };
        assert_eq!(layer.pack(), Err(PackError::Group { got }));
    }
    assert_eq!(
        PackError::Group { got: 48 }.to_string(),
        "groups of 48 rows: expected 16, 32, a multiple of 64, or the whole column"
    );
}

#[test]
fn lengths_that_do_not_fit_the_shape() {
    let qweight = Gptq {
        qweight: &[0; 100],
        ..LAYER
    };
    assert_eq!(
        told(qweight.pack()),
        "qweight: expected 128 elements, got 100"
    );
    let qzeros = Gptq {
        qzeros: &[0; 5],
        ..LAYER
    };
    assert_eq!(told(qzeros.pack()), "qzeros: expected 4 elements, got 5");
    let scales = Gptq {
        scales: &[f16::ONE; 16],
        ..LAYER
    };
    assert_eq!(told(scales.pack()), "scales: expected 32 elements, got 16");
    let g_idx = Gptq {
        g_idx: Some(&[0; 63]),
        ..LAYER
    };
    assert_eq!(told(g_idx.pack()), "g_idx: expected 64 elements, got 63");
    let compressed = |packed, scales, zeros| {
        let layer = CompressedTensors {
            k: 20,
            n: 9,
            group: None,
            weight_packed: &[0; 40][..packed],
            weight_scale: &[bf16::ONE; 40][..scales],
            weight_zero_point: Some(&[0; 40][..zeros]),
        };
        layer.pack()
    };
    compressed(27, 9, 2).unwrap();
    assert_eq!(
        told(compressed(26, 9, 2)),
        "weight_packed: expected 27 elements, got 26"
    );
    assert_eq!(
        told(compressed(27, 8, 2)),
        "weight_scale: expected 9 elements, got 8"
    );
    assert_eq!(
        told(compressed(27, 9, 3)),
        "weight_zero_point: expected 2 elements, got 3"
    );
    let blocks = Q4_0 {
        k: 64,
        n: 2,
        blocks: &[0; 71],
    };
    assert_eq!(
        told(blocks.pack()),
        "bytes of blocks: expected 72 elements, got 71"
    );
    let w = Quantizer::new(DType::F16).quantize(&[0.0; 7], 2, 4);
    assert_eq!(told(w), "w: expected 8 elements, got 7");
}

#[test]
fn sizes_that_a_source_cannot_have() {
    assert_eq!(
        told(Gptq { k: 60, ..LAYER }.pack()),
        "k = 60 is not a multiple of 8"
    );
    assert_eq!(
        told(Gptq { n: 15, ..LAYER }.pack()),
        "n = 15 is not a multiple of 8"
    );
    let blocks = Q4_0 {
        k: 40,
        n: 0,
        blocks: &[],
    };
    assert_eq!(told(blocks.pack()), "k = 40 is not a multiple of 32");
}

#[test]
fn more_than_kernels_address() {
    let rows = |k| {
        Q4_0 {
            k,
            n: 0,
            blocks: &[],
        }
        .pack()
    };
    rows(1 << 30).unwrap();
    let expected = i32::MAX as usize - 1024;
    assert_eq!(
        rows(1 << 31),
        Err(PackError::Limit {
            what: "rows",
            expected,
            got: 1 << 31
        })
    );
    let columns = Q4_0 {
        k: 0,
        n: 1 << 31,
        blocks: &[],
    };
    assert_eq!(
        told(columns.pack()),
        "columns: expected at most 2147482623, got 2147483648"
    );
}

#[test]
fn scales_that_are_no_numbers() {
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let mut scales = [f16::ONE; 32];
        scales[16 + 3] = bad;
        let refused = Gptq {
            scales: &scales,
            ..LAYER
        };
        let Err(PackError::Scale { group, column, got }) = refused.pack() else {
            panic!("{bad} was packed");
        };
        assert_eq!((group, column), (1, 3));
        assert_eq!(got.to_bits(), bad.to_f32().to_bits());
    }
    let too_large = Quantizer::new(DType::F16).quantize(&[1e9; 4], 1, 4);
    assert_eq!(
        told(too_large),
        "the scale of group 0, column 0 is -inf, expected a finite number"
    );
    let nan = Quantizer::new(DType::F16).quantize(&[0.0, 1.0, f32::NAN, 2.0], 2, 2);
    assert_eq!(
        told(nan),
        "the element in row 0, column 1 is NaN, expected a finite number"
    );
}

#[test]
fn scales_of_other_types() {
    let f32_scales = LAYER.pack().unwrap().with_scales(DType::F32);
    assert_eq!(f32_scales, Err(PackError::ScaleType { got: DType::F32 }));
    assert_eq!(
        told(Quantizer::new(DType::U8).quantize(&[], 0, 0)),
        "scales of type u8: expected f16 or bf16"
    );
    let large = CompressedTensors {
        k: 8,
        n: 1,
        group: None,
        weight_packed: &[0],
        weight_scale: &[bf16::from_f32(-1e9)],
        weight_zero_point: None,
    };
    let refused = large.pack().unwrap().with_scales(DType::F16);
    assert_eq!(
        told(refused),
        "the scale -998244350 of group 0, column 0 is beyond the range of f16"
    );
}

#[test]
fn groups_of_rows_that_cannot_be() {
    let with = |row: usize, group: i32| {
        let mut g_idx: Vec<i32> = (0..64).map(|row| row / 32).collect();
        g_idx[row] = group;
        let layer = Gptq {
            g_idx: Some(&g_idx),
            ..LAYER
        };
        layer.pack()
    };
    with(5, 0).unwrap();
    for got in [-1, 2, i32::MIN, i32::MAX] {
        let expected = PackError::GroupIndex {
            row: 63,
            expected: 2,
            got,
        };
        assert_eq!(with(63, got), Err(expected));
    }
    assert_eq!(told(with(5, 1)), "g_idx gives group 0 31 rows, expected 32");
    assert_eq!(
        told(with(5, 9)),
        "g_idx of row 5: expected less than 2 groups, got 9"
    );
}

#[test]
fn cuts_that_cannot_be_made() {
    let whole = LAYER.pack().unwrap();
    whole.rows(32..64).unwrap();
    assert_eq!(
        told(whole.columns(3..17)),
        "columns 3..17 are not within 0..16"
    );
    #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
    let backwards = whole.columns(3..2);
    assert_eq!(told(backwards), "columns 3..2 are not within 0..16");
    assert_eq!(told(whole.rows(0..65)), "rows 0..65 are not within 0..64");
    for cut in [0..31, 16..64, 1..1] {
        let told = told(whole.rows(cut.clone()));
        assert_eq!(
            told,
            format!("rows {cut:?} cut a group: both ends must be multiples of 32, or the last row")
        );
    }
    let g_idx: Vec<i32> = (0..64).map(|row| row % 2).collect();
    let permuted = Gptq {
        g_idx: Some(&g_idx),
        ..LAYER
    };
    let permuted = permuted.pack().unwrap();
    permuted.rows(0..64).unwrap();
    assert_eq!(
        told(permuted.rows(0..32)),
        "rows 0..32: weights with permuted rows cannot be cut along K"
    );
}

/// 64 rows by 2 columns.
const MXFP4: Mxfp4<'static> = Mxfp4 {
    k: 64,
    n: 2,
    blocks: &[0; 64],
    scales: &[127; 4],
};
const NVFP4: Nvfp4<'static> = Nvfp4 {
    k: 64,
    n: 2,
    weight: &[0; 64],
    weight_scale: &[0x38; 8],
    matrix_scale: MatrixScale::Times(1.0),
};
const NF4: BitsAndBytes<'static> = BitsAndBytes {
    k: 64,
    n: 2,
    quant_type: BnbType::Nf4,
    blocksize: 64,
    weight: &[0; 64],
    absmax: Absmax::Plain(&[1.0; 2]),
};

#[test]
fn codebooks_of_other_shapes() {
    assert_eq!(
        told(Mxfp4 { k: 48, ..MXFP4 }.pack()),
        "k = 48 is not a multiple of 32"
    );
    assert_eq!(
        told(Mxfp4 { n: 3, ..MXFP4 }.pack()),
        "blocks: expected 96 elements, got 64"
    );
    let scales = &[127; 5];
    assert_eq!(
        told(Mxfp4 { scales, ..MXFP4 }.pack()),
        "scales: expected 4 elements, got 5"
    );
    assert_eq!(
        told(Nvfp4 { k: 40, ..NVFP4 }.pack()),
        "k = 40 is not a multiple of 16"
    );
    assert_eq!(
        told(Nvfp4 { n: 1, ..NVFP4 }.pack()),
        "weight: expected 32 elements, got 64"
    );
    let weight_scale = &[0x38; 4];
    assert_eq!(
        told(
            Nvfp4 {
                weight_scale,
                ..NVFP4
            }
            .pack()
        ),
        "weight_scale: expected 8 elements, got 4"
    );
    let blocksize = |blocksize| BitsAndBytes { blocksize, ..NF4 }.pack();
    assert_eq!(blocksize(0), Err(PackError::Group { got: 0 }));
    assert_eq!(told(blocksize(128)), "k = 64 is not a multiple of 128");
    assert_eq!(told(blocksize(32)), "absmax: expected 4 elements, got 2");
    let nested = |quant_map, nested_absmax| {
        let absmax = Absmax::Nested {
            absmax: &[0; 2],
            quant_map,
            nested_absmax,
            offset: 0.0,
        };
        BitsAndBytes { absmax, ..NF4 }.pack()
    };
    nested(&[0.0; 256], &[1.0]).unwrap();
    assert_eq!(
        told(nested(&[0.0; 16], &[1.0])),
        "nested_quant_map: expected 256 elements, got 16"
    );
    assert_eq!(
        told(nested(&[0.0; 256], &[])),
        "nested_absmax: expected 1 elements, got 0"
    );
}

#[test]
fn scales_of_codebooks_that_are_no_numbers() {
    let scales = &[127, 127, 127, 255];
    assert_eq!(
        told(Mxfp4 { scales, ..MXFP4 }.pack()),
        "the scale of group 1, column 1 is NaN, expected a finite number"
    );
    for matrix_scale in [
        MatrixScale::Times(f32::INFINITY),
        MatrixScale::Over(0.0),
        MatrixScale::Over(f32::NAN),
    ] {
        let layer = Nvfp4 {
            matrix_scale,
            ..NVFP4
        };
        let Err(PackError::Scale { group, column, .. }) = layer.pack() else {
            panic!("{matrix_scale:?} was packed");
        };
        assert_eq!((group, column), (0, 0));
    }
    let absmax = Absmax::Plain(&[1.0, f32::NEG_INFINITY]);
    assert_eq!(
        told(BitsAndBytes { absmax, ..NF4 }.pack()),
        "the scale of group 0, column 1 is -inf, expected a finite number"
    );
}

#[test]
fn cuts_of_codebooks_that_cannot_be_made() {
    let whole = NVFP4.pack().unwrap();
    whole.rows(16..48).unwrap();
    assert_eq!(
        told(whole.columns(1..3)),
        "columns 1..3 are not within 0..2"
    );
    assert_eq!(told(whole.rows(0..65)), "rows 0..65 are not within 0..64");
    assert_eq!(
        told(whole.rows(8..64)),
        "rows 8..64 cut a group: both ends must be multiples of 16, or the last row"
    );
    // A column that is one group may be cut anywhere: here eight rows at a time end beyond padding.
    let cut = NF4.pack().unwrap().rows(1..64).unwrap();
    assert_eq!(cut.dequantize(), [-1.0; 2 * 63]);
}
