//! The checks of the stages' operands, and what they make: launches.

use super::MoeError;
use super::params::{CombineParams, GroupedParams, PermuteParams, RouteParams};
use crate::device::launch::LaunchShape;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::operand::{Operand, same_place};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// A launch of checked operands.
pub(crate) struct BoundLaunch<'b> {
    pub kernel: &'b Kernel,
    pub stream: &'b Stream,
    pub shape: LaunchShape,
    pub params: Params,
}

/// The parameter of one of the stages' kernels.
#[derive(Clone, Copy)]
pub(crate) enum Params {
    Route(RouteParams),
    Permute(PermuteParams),
    Grouped(GroupedParams),
    Combine(CombineParams),
}

impl Params {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Params::Route(params) => bytemuck::bytes_of(params),
            Params::Permute(params) => bytemuck::bytes_of(params),
            Params::Grouped(params) => bytemuck::bytes_of(params),
            Params::Combine(params) => bytemuck::bytes_of(params),
        }
    }
}

impl<'b> BoundLaunch<'b> {
    /// `blocks` blocks of the kernel.
    pub fn new(kernel: &'b Kernel, stream: &'b Stream, blocks: usize, params: Params) -> Self {
        let entry = kernel.entry();
        BoundLaunch {
            kernel,
            stream,
            shape: LaunchShape {
                // Plans have limits from which it follows that this fits.
                grid: [blocks as u32, 1, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params,
        }
    }
}

/// Launches of a call, in order.
pub(crate) type Launches<'b> = Vec<BoundLaunch<'b>>;

/// Enqueues them.
pub(super) fn enqueue(launches: &Launches<'_>) -> Result<(), MoeError> {
    for launch in launches {
        Stream::enqueue(launch)?;
    }
    Ok(())
}

/// The operands of a call, checked one by one: first all that are read, then those written.
pub(super) struct Check<'t> {
    pub stream: &'t Stream,
    /// What must not be written (any more).
    spans: Vec<(&'static str, Span<'t>)>,
}

#[derive(Clone, Copy)]
pub(super) enum Span<'t> {
    Of1(Tensor<'t, 1>),
    Of2(Tensor<'t, 2>),
    Of3(Tensor<'t, 3>),
}

/// Ranks that operands have.
pub(super) trait Ranked<'t> {
    fn ranked(self) -> Span<'t>;
}
macro_rules! ranked {
    ($($rank:literal => $span:ident),*) => {$(
        impl<'t> Ranked<'t> for Tensor<'t, $rank> {
            fn ranked(self) -> Span<'t> {
                Span::$span(self)
            }
        }
    )*};
}
ranked!(1 => Of1, 2 => Of2, 3 => Of3);

/// How an operand must lie.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Lie {
    /// With any stride but along the last axis.
    Rows,
    /// The same, and at multiples of 16 bytes.
    Aligned,
    /// With any stride.
    Anyhow,
    /// Without gaps.
    Dense,
}

impl<'t> Check<'t> {
    pub fn new(device: &Device, stream: &'t Stream) -> Result<Self, OperandError> {
        let (expected, got) = (device.id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            });
        }
        Ok(Check {
            stream,
            spans: Vec::with_capacity(12),
        })
    }

    /// An operand that is read: its address and strides.
    pub fn read<const R: usize>(
        &mut self,
        name: &'static str,
        tensor: Tensor<'t, R>,
        dtype: DType,
        shape: [usize; R],
        lie: Lie,
    ) -> Result<(u64, [i64; R]), OperandError>
    where
        Tensor<'t, R>: Ranked<'t>,
    {
        let strides = self.lies(name, &tensor, dtype, shape, lie)?;
        self.spans.push((name, tensor.ranked()));
        Ok((tensor.address(), strides))
    }

    /// An operand that is written, apart from all before it.
    pub fn write<const R: usize>(
        &mut self,
        name: &'static str,
        tensor: &'t TensorMut<'_, R>,
        dtype: DType,
        shape: [usize; R],
        lie: Lie,
    ) -> Result<(u64, [i64; R]), OperandError>
    where
        Tensor<'t, R>: Ranked<'t>,
    {
        let tensor = tensor.as_ref();
        let strides = self.lies(name, &tensor, dtype, shape, lie)?;
        let written = Operand {
            name,
            tensor: &tensor,
        };
        for (name, span) in &self.spans {
            match span {
                Span::Of1(tensor) => written.apart_from(Operand { name, tensor })?,
                Span::Of2(tensor) => written.apart_from(Operand { name, tensor })?,
                Span::Of3(tensor) => written.apart_from(Operand { name, tensor })?,
            }
        }
        self.spans.push((name, tensor.ranked()));
        Ok((tensor.address(), strides))
    }

    /// At least `expected` elements to work with, and where.
    pub fn workspace(
        &mut self,
        tensor: Option<&'t TensorMut<'_, 1>>,
        dtype: DType,
        expected: usize,
    ) -> Result<u64, MoeError> {
        let got = tensor.map_or(0, |tensor| tensor.as_ref().shape()[0]);
        if got < expected {
            return Err(MoeError::Workspace { expected, got });
        }
        match tensor {
            Some(tensor) if expected > 0 => Ok(self
                .write("workspace", tensor, dtype, [got], Lie::Aligned)?
                .0),
            _ => Ok(0),
        }
    }

    /// The status word's address.
    pub fn status(&self, status: &StatusWord) -> Result<u64, OperandError> {
        same_place("status", status.place(), self.stream)?;
        Ok(status.address())
    }

    fn lies<const R: usize>(
        &self,
        name: &'static str,
        tensor: &Tensor<'t, R>,
        dtype: DType,
        shape: [usize; R],
        lie: Lie,
    ) -> Result<[i64; R], OperandError> {
        let operand = Operand { name, tensor };
        operand.dtype(dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        match lie {
            Lie::Rows => operand.strides(),
            Lie::Aligned => operand.aligned_strides(),
            Lie::Anyhow => operand.any_strides(),
            Lie::Dense => {
                let strides = operand.strides()?;
                let mut expected = 1;
                for axis in (0..R).rev() {
                    // A stride of 0 is one that is never stepped.
                    if strides[axis] != expected && tensor.shape()[axis] > 1 && !tensor.is_empty() {
                        return Err(OperandError::Stride {
                            tensor: name,
                            axis,
                            expected,
                            got: strides[axis],
                        });
                    }
                    expected *= shape[axis] as i64;
                }
                Ok(strides)
            }
        }
    }
}

/// Whether an operand is given must be as planned.
pub(super) fn optional<T>(
    tensor: &'static str,
    expected: bool,
    given: Option<T>,
) -> Result<Option<T>, MoeError> {
    let got = given.is_some();
    if got == expected {
        return Ok(given);
    }
    Err(MoeError::Optional {
        tensor,
        expected,
        got,
    })
}
