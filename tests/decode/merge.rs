//! Merges of partial attention states against f64, and what must be exact.

use std::error::Error;

use crate::common::{Arrangement, Operand, device, in_parallel, indices, seeds, shared_device};
use half::{bf16, f16};
use infer_kernels::attention::merge::{MergeArgs, MergePlan, MergeProblem, State};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::merge::{MergeOutput, merge};
use infer_kernels::reference::tolerance::{Comparison, Rule};
use infer_kernels::{DType, Device, Float};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// Partial states: outputs, and log-sum-exps `[heads, tokens]` without gaps.
struct Case<T> {
    problem: MergeProblem,
    tokens: usize,
    states: Vec<(Operand<T>, Vec<f32>)>,
    lse: bool,
    out: Arrangement,
}

impl<T: Float> Case<T> {
    fn random(seed: u64) -> Case<T> {
        let rng = &mut StdRng::seed_from_u64(seed);
        let tokens = [0, 1, 5, 17][rng.random_range(0..4)];
        let heads = [1, 3, 8][rng.random_range(0..3)];
        let dim = [8, 64, 96, 128, 256, 512, 520][rng.random_range(0..7)];
        let out = [DType::F16, DType::BF16, DType::F32, T::DTYPE][rng.random_range(0..4)];
        let count = [0, 1, 2, 2, 3, 7, 16][rng.random_range(0..7)];
        let empty = [0.0, 0.3, 0.9][rng.random_range(0..3)];
        let states = (0..count)
            .map(|_| {
                let lse: Vec<f32> = (0..heads * tokens)
                    .map(|_| match rng.random_bool(empty) {
                        true => f32::NEG_INFINITY,
                        false => rng.random_range(-30.0..30.0),
                    })
                    .collect();
                let arrangement = Arrangement::random(rng);
                // What an empty state holds is anything, here NaN.
                let operand = Operand::filled([tokens, heads, dim], arrangement, |[t, h, _]| {
                    match lse[h * tokens + t] == f32::NEG_INFINITY {
                        true => f64::NAN,
                        false => StandardNormal.sample(rng),
                    }
                });
                (operand, lse)
            })
            .collect();
        Case {
            problem: MergeProblem::new(T::DTYPE, heads, dim).out(out),
            tokens,
            states,
            lse: rng.random_bool(0.7),
            out: Arrangement::random(rng),
        }
    }

    fn run<O: Float>(&self, device: &Device) -> Result<(Operand<O>, Vec<f32>), Box<dyn Error>> {
        let MergeProblem { heads, dim, .. } = self.problem;
        let (tokens, stream) = (self.tokens, device.stream());
        let plan = MergePlan::new(device, &self.problem)?;
        let buffers = self
            .states
            .iter()
            .map(|(out, lse)| Ok((stream.upload(&out.data)?, stream.upload(lse)?)))
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let states = self
            .states
            .iter()
            .zip(&buffers)
            .map(|((operand, _), (out, lse))| {
                let region = out.region();
                Ok(State {
                    out: region.strided(operand.offset, operand.shape, operand.strides)?,
                    lse: lse.tensor([heads, tokens])?,
                })
            })
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let mut out = Operand::<O>::new([tokens, heads, dim], self.out);
        let mut out_buffer = stream.upload(&out.data)?;
        let mut lse = stream.upload(&vec![7.0f32; heads * tokens])?;
        plan.run(
            &stream,
            MergeArgs {
                states: &states,
                out: out_buffer
                    .region_mut()
                    .strided(out.offset, out.shape, out.strides)?,
                lse: match self.lse {
                    true => Some(lse.tensor_mut([heads, tokens])?),
                    false => None,
                },
            },
        )?;
        out.data = out_buffer.download()?;
        Ok((out, lse.download()?))
    }

    fn exact(&self) -> MergeOutput {
        let MergeProblem { heads, dim, .. } = self.problem;
        let states: Vec<_> = self
            .states
            .iter()
            .map(|(out, lse)| {
                (
                    out.host(),
                    HostTensor::new(lse, [heads, self.tokens]).unwrap(),
                )
            })
            .collect();
        merge([self.tokens, heads, dim], &states)
    }

    fn check<O: Float>(&self, device: &Device) -> Result<f64, Box<dyn Error>> {
        let (mut out, lse) = self.run::<O>(device)?;
        let exact = self.exact();
        let mut got = vec![];
        for index in indices(out.shape) {
            let at = out.at(index);
            got.push(out.data[at]);
            out.data[at] = O::nearest(f64::NAN);
        }
        if out.data.iter().any(|x| !x.to_f64().is_nan()) {
            return Err("a gap was written".into());
        }
        // Weights are off by the errors of exponential, argument and reciprocal: 60 · 2^-23 and little
        // more, and each of the additions by half a place.
        let slack = 2f64.powi(-16);
        let allowed: Vec<f64> = exact.out_terms.iter().map(|terms| terms * slack).collect();
        let margin = Comparison {
            got: &got,
            exact: &exact.out,
            rounded: &exact.out,
            terms: &exact.out_terms,
            allowed: &allowed,
        }
        .judge(Rule::ROUNDED)?;
        if self.lse {
            let zeros = vec![0.0; lse.len()];
            let allowed: Vec<f64> = exact
                .lse
                .iter()
                .map(|x| 2f64.powi(-20) * (1.0 + x.abs()))
                .collect();
            Comparison {
                got: &lse,
                exact: &exact.lse,
                rounded: &exact.lse,
                terms: &zeros,
                allowed: &allowed,
            }
            .judge(Rule::ROUNDED)?;
        } else if lse.iter().any(|&x| x != 7.0) {
            return Err("a log-sum-exp that nobody asked for was written".into());
        }
        Ok(margin.used)
    }

    fn check_any(&self, device: &Device) -> Result<f64, Box<dyn Error>> {
        match self.problem.out {
            DType::F16 => self.check::<f16>(device),
            DType::BF16 => self.check::<bf16>(device),
            _ => self.check::<f32>(device),
        }
    }
}

#[test]
fn random_states_are_merged_within_their_bounds() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..120).collect();
    let worst = std::sync::Mutex::new(0.0f64);
    in_parallel(&seeds, |&seed| {
        let result = match seed % 3 {
            0 => Case::<f16>::random(seed).check_any(&device),
            1 => Case::<bf16>::random(seed).check_any(&device),
            _ => Case::<f32>::random(seed).check_any(&device),
        };
        let used = result.unwrap_or_else(|error| panic!("case {seed}: {error}"));
        let mut worst = worst.lock().unwrap();
        *worst = worst.max(used);
    });
    println!(
        "at most {:.0} % of the bound",
        100.0 * worst.into_inner().unwrap()
    );
}

/// Where one state has keys its row is copied: every bit, negative zeros and NaN payloads too.
#[test]
fn a_state_alone_keeps_its_bits() {
    let mut case = Case::<bf16>::random(0);
    case.problem = MergeProblem::new(DType::BF16, 1, 256);
    (case.tokens, case.lse, case.out) = (256, true, Arrangement::Dense);
    let mut all = Operand::<bf16>::new([256, 1, 256], Arrangement::Dense);
    for (bits, x) in all.data.iter_mut().enumerate() {
        *x = bf16::from_bits(bits as u16);
    }
    let nothing = Operand::<bf16>::new([256, 1, 256], Arrangement::Dense);
    let lse = |x: f32| vec![x; 256];
    case.states = vec![
        (nothing.clone(), lse(f32::NEG_INFINITY)),
        (all.clone(), lse(-3.25)),
        (nothing.clone(), lse(f32::NEG_INFINITY)),
    ];
    let (out, got) = case.run::<bf16>(shared_device()).unwrap();
    let bits = |data: &[bf16]| data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&out.data), bits(&all.data));
    assert_eq!(got, lse(-3.25));
    // None at all.
    case.states.remove(1);
    let (out, got) = case.run::<bf16>(shared_device()).unwrap();
    assert!(out.data.iter().all(|x| x.to_bits() == 0));
    assert_eq!(got, lse(f32::NEG_INFINITY));
}

/// Merging in two steps gives what merging at once does, and the order of states is all that counts.
#[test]
fn a_merged_state_is_a_state() {
    let mut case = Case::<f32>::random(4);
    case.problem = MergeProblem::new(DType::F32, 2, 64);
    (case.tokens, case.lse, case.out) = (9, true, Arrangement::Dense);
    let rng = &mut StdRng::seed_from_u64(9);
    case.states = (0..4)
        .map(|_| {
            let out = Operand::filled([9, 2, 64], Arrangement::Dense, |_| {
                StandardNormal.sample(rng)
            });
            let lse = (0..18).map(|_| rng.random_range(-5.0..5.0)).collect();
            (out, lse)
        })
        .collect();
    let device = shared_device();
    let (at_once, lse) = case.run::<f32>(device).unwrap();
    let (again, _) = case.run::<f32>(device).unwrap();
    assert_eq!(at_once.data, again.data);
    let mut half = |range: std::ops::Range<usize>| {
        let states = case.states[range].to_vec();
        let whole = std::mem::replace(&mut case.states, states);
        let merged = case.run::<f32>(device).unwrap();
        case.states = whole;
        merged
    };
    let (first, second) = (half(0..2), half(2..4));
    case.states = vec![first, second];
    let (in_steps, lse_in_steps) = case.run::<f32>(device).unwrap();
    for (a, b) in at_once.data.iter().zip(&in_steps.data) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    for (a, b) in lse.iter().zip(&lse_in_steps) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn plans_say_what_they_do() {
    let problem = MergeProblem::new(DType::F32, 32, 128).out(DType::BF16);
    let plan = MergePlan::new(shared_device(), &problem).unwrap();
    assert_eq!(plan.row_bytes(1, 2), 32 * (2 * (512 + 4) + 256 + 4));
    let device = shared_device();
    let expected =
        format!("merge_states: 128 threads\n  32 heads of 128, f32 to bf16, on {device}");
    assert_eq!(plan.to_string(), expected);
}
