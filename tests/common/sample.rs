//! A sampling case: rows of logits with an option each, run on a device and judged by the reference.
#![allow(dead_code, reason = "each test file uses a part")]

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::elementwise::{SampleArgs, SamplePlan, SampleProblem, Sampling};
use infer_kernels::reference::sample::{RowSampling, sample};
use infer_kernels::{DType, Device, Float, Offence, StatusReport, StatusWord};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::elementwise::OnDevice;

/// Logits of one row, and how it is sampled.
#[derive(Clone, Debug)]
pub struct Row {
    pub logits: Vec<f32>,
    pub sampling: RowSampling,
}

/// Rows of equal length.
#[derive(Clone, Debug)]
pub struct Case {
    pub dtype: DType,
    pub rows: Vec<Row>,
    /// Where the first row begins, and the room behind each.
    pub offset: usize,
    pub pad: usize,
    /// Whether options, or logits, change with every look at them.
    pub hostile_options: bool,
    pub hostile_logits: bool,
}

const VOCABULARIES: &[usize] = &[
    1, 2, 7, 8, 9, 31, 255, 256, 257, 1000, 2047, 2048, 2049, 4097, 5003,
];

impl Case {
    /// The logits are rounded to the type.
    pub fn of(dtype: DType, mut rows: Vec<Row>) -> Case {
        for x in rows.iter_mut().flat_map(|row| &mut row.logits) {
            *x = match dtype {
                DType::F16 => f16::from_f32(*x).to_f32(),
                DType::BF16 => bf16::from_f32(*x).to_f32(),
                _ => *x,
            };
        }
        Case {
            dtype,
            rows,
            offset: 0,
            pad: 0,
            hostile_options: false,
            hostile_logits: false,
        }
    }

    /// Normal logits, a row for each option.
    pub fn normal(dtype: DType, vocab: usize, scale: f32, options: Vec<RowSampling>) -> Case {
        let rng = &mut StdRng::seed_from_u64(3);
        let mut row = |sampling| {
            let numbers = StandardNormal.sample_iter(&mut *rng).take(vocab);
            Row {
                logits: numbers.map(|x: f32| scale * x).collect(),
                sampling,
            }
        };
        Case::of(dtype, options.into_iter().map(&mut row).collect())
    }

    pub fn random(seed: u64) -> Case {
        let rng = &mut StdRng::seed_from_u64(seed);
        let vocab = VOCABULARIES[rng.random_range(0..VOCABULARIES.len())];
        let count = rng.random_range(1..5);
        let rows = (0..count).map(|_| Row {
            logits: logits(rng, vocab),
            sampling: options(rng, vocab),
        });
        let rows = rows.collect();
        let mut case = Case::of(
            [DType::F16, DType::BF16, DType::F32][seed as usize % 3],
            rows,
        );
        if rng.random_bool(0.5) {
            (case.offset, case.pad) = (rng.random_range(0..9), rng.random_range(0..9));
        }
        case
    }

    /// The tokens, and what was reported.
    pub fn run(&self, device: &Device) -> Result<(Vec<i32>, StatusReport), Box<dyn Error>> {
        let stream = device.stream();
        let (rows, vocab) = (self.rows.len(), self.rows[0].logits.len());
        let plan = SamplePlan::new(device, &SampleProblem::new(self.dtype, vocab))?;
        let pitch = vocab + self.pad;
        let mut laid = vec![f32::INFINITY; self.offset + rows * pitch];
        for (i, row) in self.rows.iter().enumerate() {
            laid[self.offset + i * pitch..][..vocab].copy_from_slice(&row.logits);
        }
        let logits = OnDevice::new(&stream, self.dtype, &laid)?;
        let options = || self.rows.iter().map(|row| row.sampling);
        let temperature = stream.upload(&Vec::from_iter(options().map(|o| o.temperature)))?;
        let top_k = stream.upload(&Vec::from_iter(options().map(|o| o.top_k)))?;
        let top_p = stream.upload(&Vec::from_iter(options().map(|o| o.top_p)))?;
        let draws = stream.upload(&Vec::from_iter(options().flat_map(|o| o.draw)))?;
        let of_logits = logits
            .region()
            .strided(self.offset, [rows, vocab], [pitch as i64, 1])?;
        if let Some(emulator) = device.as_emulator() {
            let of_row = [
                temperature.tensor([rows])?.address(),
                top_k.tensor([rows])?.address(),
                top_p.tensor([rows])?.address(),
            ];
            for address in of_row.into_iter().filter(|_| self.hostile_options) {
                emulator.mark_hostile(address, 4 * rows as u64)?;
            }
            if self.hostile_logits {
                let elements = (rows - 1) * pitch + vocab;
                let bytes = elements * self.dtype.size();
                emulator.mark_hostile(of_logits.address(), bytes as u64)?;
            }
        }
        let mut tokens = stream.upload(&vec![-7; rows])?;
        let status = StatusWord::new(&stream)?;
        let args = SampleArgs {
            logits: of_logits,
            sampling: Some(Sampling {
                temperature: temperature.tensor([rows])?,
                top_k: Some(top_k.tensor([rows])?),
                top_p: Some(top_p.tensor([rows])?),
                draws: draws.tensor([rows, 2])?,
            }),
            tokens: tokens.tensor_mut([rows])?,
            status: &status,
        };
        plan.run(&stream, args)?;
        Ok((tokens.download()?, status.read()?))
    }

    /// Runs the case: tokens and status must be the reference's.
    pub fn check(&self, device: &Device) -> Result<(), Box<dyn Error>> {
        let (tokens, status) = self.run(device)?;
        let mut bits = 0u32;
        let mut first = None;
        for (i, (row, &got)) in self.rows.iter().zip(&tokens).enumerate() {
            let (expected, reported) = sample(&row.logits, row.sampling);
            if got != expected {
                let sampling = row.sampling;
                return Err(format!("row {i} {sampling:?}: {got}, not {expected}").into());
            }
            for offence in reported.offences() {
                bits |= offence.bit();
                let key = (offence, i as u64);
                first = Some(first.map_or(key, |first: (Offence, u64)| first.min(key)));
            }
        }
        let seen = status
            .offences()
            .fold(0, |bits, offence| bits | offence.bit());
        if (seen, status.first()) != (bits, first) {
            return Err(format!("status {status}, expected {first:?}, bits {bits:#x}").into());
        }
        Ok(())
    }
}

/// Normal, coarse, flat, or with something special among them.
fn logits(rng: &mut StdRng, vocab: usize) -> Vec<f32> {
    let scale = [0.01, 1.0, 5.0, 40.0][rng.random_range(0..4)];
    let kind = rng.random_range(0..5);
    let mut logits: Vec<f32> = (0..vocab)
        .map(|_| {
            let x: f32 = StandardNormal.sample(rng);
            match kind {
                0 => 0.25,
                1 => (2.0 * x).round() / 2.0,
                _ => scale * x,
            }
        })
        .collect();
    if kind == 4 {
        for special in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            if rng.random_bool(0.4) {
                logits[rng.random_range(0..vocab)] = special;
            }
        }
    }
    logits
}

fn options(rng: &mut StdRng, vocab: usize) -> RowSampling {
    let temperature = match rng.random_range(0..10) {
        0 => 0.0,
        1 => [f32::NAN, -1.0, f32::INFINITY][rng.random_range(0..3)],
        2 => 1e-3,
        3 => 30.0,
        _ => rng.random_range(0.3..1.5),
    };
    let top_k = match rng.random_range(0..5) {
        0 => rng.random(),
        1 => 1,
        2 => rng.random_range(1..=vocab as i32),
        3 => 40,
        _ => 0,
    };
    let top_p = match rng.random_range(0..6) {
        0 => f32::NAN,
        1 => 0.0,
        2..4 => 1.0,
        _ => rng.random_range(0.0..1.0),
    };
    RowSampling {
        temperature,
        top_k,
        top_p,
        draw: [rng.random(), rng.random()],
    }
}
