//! Blocks of GGUF's formats, made at random and read plainly: written from the formats' definitions,
//! a block at a time, apart from the library.
#![allow(dead_code, reason = "each test file uses a part")]

use half::f16;
use infer_kernels::blocks::BlockFormat;
use rand::RngExt;
use rand::rngs::StdRng;

/// Where a block has `f16` numbers: the scale, then the offset or minimum.
pub fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
        BlockFormat::Q6_K => &[208],
        other => panic!("{other} is new"),
    }
}

/// Blocks `[n, k / rows]` of any bytes, with scales of both signs at which weights are of about a
/// size.
pub fn random(rng: &mut StdRng, format: BlockFormat, [k, n]: [usize; 2], size: f64) -> Vec<u8> {
    let mut bytes = vec![0; n * (k / format.rows()) * format.bytes()];
    rng.fill(&mut bytes[..]);
    let largest = match format {
        BlockFormat::Q4_0 => 8.0,
        BlockFormat::Q4_1 | BlockFormat::Q5_0 => 16.0,
        BlockFormat::Q5_1 => 32.0,
        BlockFormat::Q8_0 => 128.0,
        BlockFormat::Q4_K => 16.0 * 64.0,
        BlockFormat::Q5_K => 32.0 * 64.0,
        _ => 32.0 * 128.0,
    };
    for block in bytes.chunks_mut(format.bytes()) {
        for (i, &at) in halves(format).iter().enumerate() {
            // The offset is as large as a product, or a lower level times as large.
            let of = match (i, format) {
                (1, BlockFormat::Q4_1 | BlockFormat::Q5_1) => 1.0,
                (1, _) => 64.0,
                _ => largest,
            };
            let magnitude = size / of * 2f64.powf(rng.random_range(-2.0..1.0));
            let sign = if rng.random_bool(0.3) { -1.0 } else { 1.0 };
            block[at..at + 2].copy_from_slice(&f16::from_f64(sign * magnitude).to_le_bytes());
        }
    }
    bytes
}

/// The weights `[k, n]` of blocks, in `f32`.
pub fn dequantize(format: BlockFormat, [k, n]: [usize; 2], bytes: &[u8]) -> Vec<f32> {
    let mut all = vec![0.0; k * n];
    for (i, block) in bytes.chunks(format.bytes()).enumerate() {
        let of_column = k / format.rows();
        for (row, value) in values(format, block).into_iter().enumerate() {
            all[(i % of_column * format.rows() + row) * n + i / of_column] = value;
        }
    }
    all
}

/// The values of a block, in order.
fn values(format: BlockFormat, block: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let mut y = vec![0.0; format.rows()];
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
            let (zero, m, from) = match format {
                BlockFormat::Q4_0 => (8.0, None, 2),
                _ => (0.0, Some(half(2)), 4),
            };
            for i in 0..16 {
                let byte = block[from + i];
                y[i] = plus((f32::from(byte % 16) - zero) * half(0), m);
                y[i + 16] = plus((f32::from(byte / 16) - zero) * half(0), m);
            }
        }
        BlockFormat::Q5_0 | BlockFormat::Q5_1 => {
            let (zero, m, from) = match format {
                BlockFormat::Q5_0 => (16, None, 2),
                _ => (0, Some(half(2)), 4),
            };
            let fifth = u32::from_le_bytes(block[from..from + 4].try_into().unwrap());
            for i in 0..16 {
                let byte = i32::from(block[from + 4 + i]);
                let bit = |i: usize| if fifth >> i & 1 == 1 { 16 } else { 0 };
                y[i] = plus((byte % 16 + bit(i) - zero) as f32 * half(0), m);
                y[i + 16] = plus((byte / 16 + bit(i + 16) - zero) as f32 * half(0), m);
            }
        }
        BlockFormat::Q8_0 => {
            for i in 0..32 {
                y[i] = f32::from(block[2 + i] as i8) * half(0);
            }
        }
        BlockFormat::Q4_K | BlockFormat::Q5_K => super_block(format, block, &mut y),
        BlockFormat::Q6_K => {
            let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
            for (i, y) in y.iter_mut().enumerate() {
                // 128 values at a time: four rounds of 32, two low and two high halves of bytes.
                let (part, round, at) = (i / 128, i % 128 / 32, i % 32);
                let byte = low[64 * part + 32 * (round % 2) + at];
                let nibble = if round < 2 { byte % 16 } else { byte / 16 };
                let pair = high[32 * part + at] >> (2 * round) & 3;
                let q = i32::from(nibble) + 16 * i32::from(pair) - 32;
                *y = half(208) * f32::from(scales[i / 16] as i8) * q as f32;
            }
        }
        other => panic!("{other} is new"),
    }
    y
}

fn plus(product: f32, m: Option<f32>) -> f32 {
    m.map_or(product, |m| product + m)
}

/// Q4_K and Q5_K: eight groups of 32, with scales and minimums of six bits.
fn super_block(format: BlockFormat, block: &[u8], y: &mut [f32]) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let packed = &block[4..16];
    // Bits 0-5 of the first eight bytes belong to groups 0-3; the other four bytes hold bits 0-3 of
    // groups 4-7, whose bits 4-5 are bits 6-7 of the first eight.
    let six = |group: usize| match group < 4 {
        true => (packed[group] % 64, packed[group + 4] % 64),
        false => (
            packed[group + 4] % 16 + packed[group - 4] / 64 * 16,
            packed[group + 4] / 16 + packed[group] / 64 * 16,
        ),
    };
    let (fifth, quants) = match format {
        BlockFormat::Q4_K => (None, &block[16..]),
        _ => (Some(&block[16..48]), &block[48..]),
    };
    for (i, y) in y.iter_mut().enumerate() {
        let (group, at) = (i / 32, i % 32);
        let byte = quants[group / 2 * 32 + at];
        let nibble = if group % 2 == 0 { byte % 16 } else { byte / 16 };
        let more = fifth.map_or(0, |fifth| fifth[at] >> group & 1) * 16;
        let (scale, minimum) = six(group);
        let d = half(0) * f32::from(scale);
        *y = d * f32::from(nibble + more) - half(2) * f32::from(minimum);
    }
}
