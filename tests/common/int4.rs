//! 4-bit weights as plain arrays, and as other formats store them: written from the formats' own
//! descriptions, apart from the loaders.
#![allow(dead_code, reason = "each test file uses a part")]

use half::f16;
use infer_kernels::int4::load::Scale;
use infer_kernels::int4::{Int4Weight, PackError};
use rand::RngExt;
use rand::rngs::StdRng;

/// What a packed matrix stands for, element by element.
#[derive(Clone, Debug)]
pub struct Plain<S> {
    pub k: usize,
    pub n: usize,
    /// Rows of a group; `None`: whole columns.
    pub group: Option<usize>,
    /// `[k, n]`.
    pub codes: Vec<u8>,
    /// `[groups, n]`.
    pub zeros: Vec<u8>,
    /// `[groups, n]`.
    pub scales: Vec<S>,
    /// `[k]`.
    pub group_of: Vec<usize>,
}

impl<S: Scale> Plain<S> {
    /// All codes, zero points from 0 to 15, scales of both signs.
    pub fn random(rng: &mut StdRng, [k, n]: [usize; 2], group: Option<usize>) -> Self {
        let rows = group.unwrap_or(k.max(1));
        let groups = k.div_ceil(rows).max(usize::from(group.is_none()));
        let scale = |rng: &mut StdRng| {
            let magnitude = 2f64.powf(rng.random_range(-8.0..-2.0));
            S::nearest(if rng.random_bool(0.3) {
                -magnitude
            } else {
                magnitude
            })
        };
        Plain {
            k,
            n,
            group,
            codes: (0..k * n).map(|_| rng.random_range(0..16)).collect(),
            zeros: (0..groups * n).map(|_| rng.random_range(0..16)).collect(),
            scales: (0..groups * n).map(|_| scale(rng)).collect(),
            group_of: (0..k).map(|row| row / rows).collect(),
        }
    }

    /// Packed by way of compressed-tensors, which has any shape.
    pub fn pack(&self) -> Int4Weight {
        let (codes, scales, zeros) = compressed(self);
        infer_kernels::int4::load::CompressedTensors {
            k: self.k,
            n: self.n,
            group: self.group,
            weight_packed: &codes,
            weight_scale: &scales,
            weight_zero_point: Some(&zeros),
        }
        .pack()
        .unwrap()
    }

    /// With every zero point in the middle.
    pub fn symmetric(mut self) -> Self {
        self.zeros.fill(8);
        self
    }

    /// With rows in the order of activations: each group has the rows that it had, elsewhere.
    pub fn act_order(mut self, rng: &mut StdRng) -> Self {
        for i in (1..self.k).rev() {
            self.group_of.swap(i, rng.random_range(0..=i));
        }
        self
    }

    pub fn groups(&self) -> usize {
        self.scales.len() / self.n.max(1)
    }

    /// `[k, n]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.k * self.n);
        for row in 0..self.k {
            for column in 0..self.n {
                let at = self.group_of[row] * self.n + column;
                let units =
                    f32::from(self.codes[row * self.n + column]) - f32::from(self.zeros[at]);
                all.push(self.scales[at].to_f64() as f32 * units);
            }
        }
        all
    }

    fn g_idx(&self) -> Vec<i32> {
        self.group_of.iter().map(|&group| group as i32).collect()
    }

    pub fn gptq(&self, version: infer_kernels::int4::load::GptqVersion) -> Gptq<S> {
        use infer_kernels::int4::load::GptqVersion;
        let mut qweight = vec![0u32; self.k / 8 * self.n];
        for row in 0..self.k {
            for column in 0..self.n {
                let code = u32::from(self.codes[row * self.n + column]);
                qweight[row / 8 * self.n + column] |= code << (row % 8 * 4);
            }
        }
        let less = if version == GptqVersion::V1 { 15 } else { 0 }; // -1 modulo 16.
        let mut qzeros = vec![0u32; self.zeros.len() / 8];
        for (at, zero) in self.zeros.iter().enumerate() {
            qzeros[at / 8] |= u32::from((zero + less) % 16) << (at % 8 * 4);
        }
        Gptq {
            k: self.k,
            n: self.n,
            group: self.group,
            qweight: qweight.into_iter().map(|word| word as i32).collect(),
            qzeros: qzeros.into_iter().map(|word| word as i32).collect(),
            scales: self.scales.clone(),
            g_idx: self.g_idx(),
            version,
        }
    }
}

/// A GPTQ layer that owns its tensors.
pub struct Gptq<S> {
    pub k: usize,
    pub n: usize,
    pub group: Option<usize>,
    pub qweight: Vec<i32>,
    pub qzeros: Vec<i32>,
    pub scales: Vec<S>,
    pub g_idx: Vec<i32>,
    pub version: infer_kernels::int4::load::GptqVersion,
}

impl<S: Scale> Gptq<S> {
    pub fn pack(&self) -> Result<Int4Weight, PackError> {
        infer_kernels::int4::load::Gptq {
            k: self.k,
            n: self.n,
            group: self.group,
            qweight: &self.qweight,
            qzeros: &self.qzeros,
            scales: &self.scales,
            g_idx: Some(&self.g_idx),
            version: self.version,
        }
        .pack()
    }
}

/// Tensors of an AWQ layer: codes, zero points.
pub fn awq<S: Scale>(plain: &Plain<S>) -> (Vec<i32>, Vec<i32>) {
    let words = |elements: &[u8]| {
        let word = |eight: &[u8]| {
            let order = [0, 2, 4, 6, 1, 3, 5, 7];
            let place =
                |word, (i, &column): (usize, &usize)| word | (eight[column] as u32) << (4 * i);
            order.iter().enumerate().fold(0u32, place) as i32
        };
        elements.chunks(8).map(word).collect()
    };
    (words(&plain.codes), words(&plain.zeros))
}

/// Tensors of a compressed-tensors layer: codes, scales, zero points.
pub fn compressed<S: Scale>(plain: &Plain<S>) -> (Vec<i32>, Vec<S>, Vec<i32>) {
    let (k, n, groups) = (plain.k, plain.n, plain.groups());
    let (words, word_rows) = (k.div_ceil(8), n.div_ceil(8));
    let mut codes = vec![0u32; n * words];
    for column in 0..n {
        for row in 0..k {
            let code = u32::from(plain.codes[row * n + column]);
            codes[column * words + row / 8] |= code << (row % 8 * 4);
        }
    }
    let mut zeros = vec![0u32; word_rows * groups];
    let mut scales = Vec::new();
    for column in 0..n {
        for group in 0..groups {
            let zero = u32::from(plain.zeros[group * n + column]);
            zeros[column / 8 * groups + group] |= zero << (column % 8 * 4);
            scales.push(plain.scales[group * n + column]);
        }
    }
    let signed = |words: Vec<u32>| words.into_iter().map(|word| word as i32).collect();
    (signed(codes), scales, signed(zeros))
}

/// Blocks of Q4_0.
pub fn q4_0(plain: &Plain<f16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for column in 0..plain.n {
        for group in 0..plain.groups() {
            bytes.extend(plain.scales[group * plain.n + column].to_le_bytes());
            let code = |i: usize| plain.codes[(32 * group + i) * plain.n + column];
            bytes.extend((0..16).map(|i| code(i) | code(i + 16) << 4));
        }
    }
    bytes
}
