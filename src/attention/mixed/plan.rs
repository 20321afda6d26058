//! A mixed batch, ready to run.

use std::fmt;
use std::ops::Range;

use super::{MixedArgs, MixedError, MixedProblem};
use crate::attention::CuSeqLens;
use crate::attention::decode::DecodePlan;
use crate::attention::prefill::{PrefillError, PrefillPlan};
use crate::device::{Device, Stream};

/// Kernels chosen and loaded for a [`MixedProblem`]. Prints what it will launch.
///
/// A plan holds no operands: it serves every layer and step with as many sequences of each kind.
#[derive(Clone, Debug)]
pub struct MixedPlan {
    problem: MixedProblem,
    decode: Option<DecodePlan>,
    prefill: Option<PrefillPlan>,
}

impl MixedPlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`MixedProblem::supports`] refuses, or that the device cannot run a kernel.
    pub fn new(device: &Device, problem: &MixedProblem) -> Result<Self, MixedError> {
        let (decode, prefill) = problem.parts()?;
        Ok(MixedPlan {
            problem: problem.clone(),
            decode: decode
                .map(|part| DecodePlan::new(device, &part))
                .transpose()?,
            prefill: prefill
                .map(|part| PrefillPlan::new(device, &part))
                .transpose()?,
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &MixedProblem {
        &self.problem
    }

    /// The plan of the sequences that decode, if there are any; of all, if they are to be
    /// batch-invariant.
    pub fn decode(&self) -> Option<&DecodePlan> {
        self.decode.as_ref()
    }

    /// The plan of the others, if there are any.
    pub fn prefill(&self) -> Option<&PrefillPlan> {
        self.prefill.as_ref()
    }

    /// Elements of `f32` workspace that [`MixedPlan::run`] needs, whatever the lengths are.
    pub fn workspace_elements(&self) -> usize {
        self.decode
            .as_ref()
            .map_or(0, DecodePlan::workspace_elements)
    }

    /// The same in bytes.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.workspace_elements()
    }

    /// Checks every operand of both parts, then enqueues their kernels on `stream`, those of the
    /// sequences that decode first. Never allocates, waits, loads or records an event.
    ///
    /// # Errors
    /// What [`DecodePlan::run`] and [`PrefillPlan::run`] refuse; then nothing is enqueued.
    pub fn run(&self, stream: &Stream, mut args: MixedArgs<'_>) -> Result<(), MixedError> {
        self.check(stream, &mut args)?;
        let batch = self.batch();
        if let Some(plan) = &self.decode {
            plan.run(stream, args.decode(batch, self.decodes())?)?;
        }
        if let Some(plan) = &self.prefill {
            plan.run(stream, args.prefill(batch, self.prefills())?)?;
        }
        Ok(())
    }

    /// Refuses what either part would, before the other one is enqueued.
    pub(crate) fn check(
        &self,
        stream: &Stream,
        args: &mut MixedArgs<'_>,
    ) -> Result<(), MixedError> {
        self.check_lengths(args)?;
        let batch = self.batch();
        if let Some(plan) = &self.decode {
            plan.bind(stream, args.decode(batch, self.decodes())?)?;
        }
        if let Some(plan) = &self.prefill {
            plan.bind(stream, args.prefill(batch, self.prefills())?)?;
        }
        Ok(())
    }

    /// Of lengths that are known on the host: each part by its own limit.
    fn check_lengths(&self, args: &MixedArgs<'_>) -> Result<(), PrefillError> {
        let (name, rows) = ("seqlens_q", args.attention.q.shape()[0]);
        let CuSeqLens::Checked(checked) = args.attention.seqlens_q else {
            return Ok(());
        };
        if checked.batch() != self.batch() {
            return Err(PrefillError::Batch {
                tensor: name,
                expected: self.batch(),
                got: checked.batch(),
            });
        }
        if checked.end() > rows {
            return Err(PrefillError::SeqEnd {
                tensor: name,
                expected: rows,
                got: checked.end(),
            });
        }
        let decodes = self.problem.decodes();
        let parts = [0..decodes, decodes..self.batch()];
        for (part, expected) in parts.into_iter().zip(self.problem.most_queries()) {
            let got = checked.longest(part);
            if got > expected {
                return Err(PrefillError::SeqLen {
                    tensor: name,
                    expected,
                    got,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn batch(&self) -> usize {
        self.problem.attention().batch
    }

    /// The sequences that the decode kernels take.
    pub(crate) fn decodes(&self) -> Range<usize> {
        0..self.problem.by_decode()
    }

    /// The others.
    pub(crate) fn prefills(&self) -> Range<usize> {
        self.problem.by_decode()..self.batch()
    }
}

impl fmt::Display for MixedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.decode, &self.prefill) {
            (Some(decode), Some(prefill)) => write!(f, "{decode}\n{prefill}"),
            (Some(decode), None) => decode.fmt(f),
            (None, Some(prefill)) => prefill.fmt(f),
            (None, None) => Ok(()),
        }
    }
}
