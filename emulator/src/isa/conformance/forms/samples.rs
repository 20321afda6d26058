//! Values for sources: what tells a form from its neighbours.
use super::super::corners;
use crate::ast::Type;

/// Columns of values for these sources, one each: all combinations of the first two's, with the others'
/// passing by.
pub(super) fn columns(opcode: &str, sources: &[(Type, u32)]) -> Vec<Vec<u64>> {
    let lists: Vec<Vec<u64>> = sources
        .iter()
        .map(|(ty, bits)| values(opcode, *ty, *bits))
        .collect();
    let len = |k: usize| lists.get(k).map_or(1, Vec::len);
    let rows = len(0) * len(1);
    // A predicate or a sign at the end has to meet all of the others.
    let rows = if len(2) <= 8 { rows * len(2) } else { rows };
    // A few are repeated, so that every lane has each of them in some warp.
    let (rows, shift) = if rows < 32 { (128, 1) } else { (rows, 0) };
    let at = |k: usize, row: usize| match k {
        0 => row / len(1) % len(0),
        1 => row % len(1),
        2 if len(2) <= 8 => row / (len(0) * len(1)) % len(2),
        k => (row * (2 * k + 3) + row / (9 + 2 * k)) % len(k),
    };
    (0..lists.len())
        .map(|k| {
            (0..rows)
                .map(|row| {
                    let value = lists[k][at(k, row + shift * (row / 32))];
                    let divides = matches!(opcode, "div" | "rem") && k == 1;
                    let is_float = matches!(sources[k].0, Type::F32 | Type::F64);
                    if divides && !is_float && value == 0 {
                        7
                    } else {
                        value
                    }
                })
                .collect()
        })
        .collect()
}

fn values(opcode: &str, ty: Type, bits: u32) -> Vec<u64> {
    let compares = matches!(opcode, "set" | "setp");
    match ty {
        Type::Pred => vec![0, 1],
        Type::F32 if matches!(opcode, "slct") => bits32(&[0.0, -0.0, -1e-40, 1.0, -1.0, f32::NAN]),
        Type::F32 if compares => bits32(&COMPARED),
        Type::F64 if compares => COMPARED
            .iter()
            .map(|x| f64::from(*x).to_bits())
            .chain([1, 1 << 63 | 1])
            .collect(),
        Type::F16 | Type::BF16 if compares => HALVES.to_vec(),
        Type::F16x2 | Type::BF16x2 if compares => pairs(&HALVES),
        Type::F32 => f32s(),
        Type::F64 => f64s(),
        Type::F16 => f16s(),
        Type::BF16 => f16s().into_iter().chain(bf16s()).collect(),
        Type::F16x2 => pairs(&f16s()),
        Type::BF16x2 => pairs(&f16s().into_iter().chain(bf16s()).collect::<Vec<_>>()),
        Type::E4M3x2 | Type::E5M2x2 => (0..256).map(|x| x | (x ^ 0x95) << 8).collect(),
        _ if compares => {
            let sign = 1 << (bits - 1);
            vec![0, 1, 2, sign - 1, sign, sign + 1, u64::MAX >> (64 - bits)]
        }
        _ => {
            let small = [4, 7, 8, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65];
            let mut all = corners(bits);
            all.extend(small);
            // Bits above the ones that count, where amounts and lengths are read.
            all.extend([0x101 & u64::MAX >> (64 - bits), 0xff03, 0xff20]);
            all
        }
    }
}

const COMPARED: [f32; 11] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-40,
    -1e-40,
    f32::MIN_POSITIVE,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    3.5,
];

/// Zeros, ones and subnormals of both half formats, infinities, NaNs.
const HALVES: [u64; 15] = [
    0, 0x8000, 0x3c00, 0xbc00, 1, 0x8001, 0x400, 0x7c00, 0xfc00, 0x7e00, 0xffff, 0x3f80, 0xbf80,
    0x7f80, 0xff80,
];

fn bits32(values: &[f32]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits().into()).collect()
}

/// Values of halves with others above them.
fn pairs(halves: &[u64]) -> Vec<u64> {
    let count = halves.len();
    (0..count)
        .map(|k| halves[k] | halves[(k * 7 + 3) % count] << 16)
        .collect()
}

/// With the same of the other sign.
fn both_signs(values: &[u64], bits: u32) -> Vec<u64> {
    let negative = values.iter().map(|x| x | 1 << (bits - 1));
    values.iter().copied().chain(negative).collect()
}

fn f32s() -> Vec<u64> {
    let mut values = bits32(&[
        0.0,
        1.0,
        1.5,
        2.5,
        3.0,
        0.5,
        0.1,
        0.7,
        1e-40,
        1e-45,
        1e-30,
        1e30,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        1.0f32.next_up(),
        1.0f32.next_down(),
        16_777_217.0,
        2f32.powi(-75),
        127.6,
        255.5,
        32767.5,
        65519.9,
        65520.0,
        448.1,
        57344.3,
        2_147_483_500.0,
        4_294_967_000.0,
        9.223_37e18,
        1.844_674e19,
    ]);
    // NaN, and numbers next to ties of f16, of bf16, of tf32, and of e4m3, and subnormals of theirs.
    values.extend([
        0x7fc0_0000,
        0x7f80_0001,
        0x3f80_1000,
        0x3f80_1001,
        0x3f80_3000,
        0x3f80_8000,
        0x3f80_8001,
        0x3f81_8000,
        0x3f80_0fff,
        0x3f88_0000,
        0x3f98_0000,
        0x3380_0000,
        0x3300_0000,
        0x3300_0001,
        0x3a80_0000,
        0x0000_8000,
        0x0001_8000,
        0x7f7f_8000,
        0x7f7f_f000,
    ]);
    both_signs(&values, 32)
}

fn f64s() -> Vec<u64> {
    let values: Vec<u64> = [
        0.0,
        1.0,
        3.0,
        0.1,
        0.5,
        1.5,
        2.5,
        127.6,
        255.5,
        32767.5,
        65519.99,
        65520.0,
        2_147_483_647.5,
        4_294_967_295.5,
        9.3e18,
        1.9e19,
        5e-324,
        1e-310,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
        1e-200,
        1e200,
        1e-40,
        1e-39,
        1e-45,
        1.0 + 2f64.powi(-11),
        1.0 + 2f64.powi(-11) + 2f64.powi(-40),
        1.0 + 2f64.powi(-8) + 2f64.powi(-45),
        1.0 + 3.0 * 2f64.powi(-24),
        1.0f64.next_up(),
        f64::from(f32::MAX) * (1.0 + 2f64.powi(-25)),
    ]
    .iter()
    .map(|x: &f64| x.to_bits())
    .collect();
    both_signs(&values, 64)
}

fn f16s() -> Vec<u64> {
    let values = [
        0, 1, 2, 0x155, 0x3ff, 0x400, 0x401, 0x2e66, 0x3555, 0x37ff, 0x3800, 0x3bff, 0x3c00,
        0x3c01, 0x3e00, 0x4100, 0x4248, 0x57f9, 0x5bfc, 0x63ff, 0x7801, 0x7bff, 0x7c00, 0x7e00,
        0x7c01,
    ];
    both_signs(&values, 16)
}

fn bf16s() -> Vec<u64> {
    let values = [
        0x7f, 0x80, 0x3f80, 0x3f7f, 0x3f81, 0x3f00, 0x3fc0, 0x4020, 0x42ff, 0x437f, 0x4eff, 0x4f7f,
        0x5f80, 0x7f7f, 0x7f80, 0x7fc0, 0x7f81, 0x3eab, 0x1a00,
    ];
    both_signs(&values, 16)
}
