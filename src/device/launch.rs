//! What is launched, and why each launch is sound.
//!
//! Operations have no unsafe code: they check their operands, build a value of a type that only
//! those checks can make, and hand it to [`Stream::enqueue`]. The types that may be handed over
//! are the `unsafe impl`s of [`Launch`] below, so this file is the whole list to audit.

pub(crate) use super::backend::LaunchShape;
use super::{DeviceError, Kernel, Stream};
use crate::attention::{decode, merge, mla, prefill};
use crate::elementwise::{self, EmbedParams, NormParams, PointwiseParams, SampleParams};
use crate::kv::{self, AppendParams, CopyParams, GatherParams};
use crate::{blocks, gemm, int4, moe};

/// A launch whose operands have been checked.
///
/// # Safety
/// An implementor vouches for four things, for every value that safe code can make:
/// - **ABI**: `params` are laid out as the entry's PTX declares them;
/// - **Bounds**: every access of the kernel stays inside memory that the parameters' operands
///   own, whatever that memory holds;
/// - **Aliasing**: what the kernel writes is borrowed exclusively and shared with no operand;
/// - **Residency**: the operands are on the kernel's device, and stay allocated, in the order of
///   the stream, until the kernel is done: [`Launch::stream_checked`] says how that was ensured.
pub(crate) unsafe trait Launch {
    fn kernel(&self) -> &Kernel;
    fn shape(&self) -> LaunchShape;
    fn params(&self) -> &[u8];
    /// The stream that the operands were checked to belong to.
    fn stream_checked(&self) -> &Stream;
}

/// [`Launch`] for operands with fields of these names; the bytes of their parameters are `$params`.
macro_rules! launch_of_fields {
    () => {
        launch_of_fields!(launch => bytemuck::bytes_of(&launch.params));
    };
    ($launch:ident => $params:expr) => {
        fn kernel(&self) -> &Kernel {
            self.kernel
        }
        fn shape(&self) -> LaunchShape {
            self.shape
        }
        fn params(&self) -> &[u8] {
            let $launch = self;
            $params
        }
        fn stream_checked(&self) -> &Stream {
            self.stream
        }
    };
}

// SAFETY: ABI: `PrefillParams` is compared with the PTX, field by field, by tests/abi.rs. Bounds:
// `Bound` is made only by `PrefillPlan::bind`, which proves every row of every operand from shapes,
// strides and the regions they were laid over; the kernel checks what it reads from lengths, page
// tables and mask offsets and skips what is out of range, and the emulator's hostile tests hold it to
// that. Aliasing: `out` and `lse` are `TensorMut`, and `bind` refuses any overlap that raw regions
// could have made; the status word is only ever touched by atomics. Residency: `bind` checks the
// device of every operand, and that it is freed in the order of this stream or belongs to a promise.
unsafe impl Launch for prefill::Bound<'_> {
    fn kernel(&self) -> &Kernel {
        self.plan.kernel()
    }
    fn shape(&self) -> LaunchShape {
        self.shape
    }
    fn params(&self) -> &[u8] {
        bytemuck::bytes_of(&self.params)
    }
    fn stream_checked(&self) -> &Stream {
        self.stream
    }
}

// SAFETY: ABI: `DecodeParams` and `QuantisedDecodeParams` are compared with the PTX, field by field, by
// tests/abi.rs; which of them an entry takes follows from the format that it was chosen by. Bounds: made
// only of a `decode::Bound`, whose making proves the operands as prefill's does and the workspace by
// its length; the kernels check what they read from lengths, page tables and mask offsets as prefill's
// do, and what they read back from the workspace is what they wrote there. Aliasing: `out`, `lse` and
// the workspace are `TensorMut`, kept apart from each other and from every input; the status word is
// only ever touched by atomics. Residency: `Bound` checks the device of every operand, and that it is
// freed in the order of this stream or belongs to a promise.
unsafe impl Launch for decode::BoundLaunch<'_> {
    launch_of_fields!(launch => launch.params);
}

// SAFETY: as for `decode::BoundLaunch`, with `MlaParams` and a `mla::Bound`: rows of latents, rotary keys
// and both parts of the queries are proved from shapes and strides.
unsafe impl Launch for mla::BoundLaunch<'_> {
    launch_of_fields!(launch => bytemuck::bytes_of(launch.params));
}

// SAFETY: ABI: `GemmParams` is compared with the PTX, field by field, by tests/abi.rs. Bounds: made
// only of a `gemm::Bound`, whose making proves every row of every operand from shapes and strides;
// the kernels read no index from memory. Aliasing: `y` and the workspace are `TensorMut`, kept apart
// from each other and from every input; only a residual in place is `y` itself, each element of which
// is read by the thread that then writes it. Residency: `Bound` checks the device of every operand,
// and that it is freed in the order of this stream or belongs to a promise.
unsafe impl Launch for gemm::BoundLaunch<'_> {
    launch_of_fields!(launch => bytemuck::bytes_of(launch.params));
}

// SAFETY: ABI: `AppendParams` is compared with the PTX, field by field, by tests/abi.rs. Bounds: made
// only by the `bind` of `AppendPlan`, `MlaAppendPlan` and `RotatePlan`, which proves every row of every
// operand and every slot below `num_slots` from shapes and strides (a rotation has no slots); the kernel
// checks each slot and position once and uses only what is in range. Aliasing: caches and queries in place
// or rotated are `TensorMut`, kept apart from each other and from every input; two tokens of one slot write
// with relaxed stores; the status word is only ever touched by atomics. Residency: `bind` checks the device
// of every operand, and that it is freed in the order of this stream or belongs to a promise.
unsafe impl Launch for kv::Bound<'_, AppendParams> {
    launch_of_fields!();
}

// SAFETY: ABI, Residency: as above, with `CopyParams`. Bounds: made only by `CopyPlan::bind`, which
// proves every page of every cache; the kernel reads each pair of page ids once and copies only where
// both exist. Aliasing: what is written is `TensorMut` and kept apart from all else; within one cache
// source and target may be one page, which relaxed accesses allow.
unsafe impl Launch for kv::Bound<'_, CopyParams> {
    launch_of_fields!();
}

// SAFETY: ABI, Residency: as above, with `GatherParams`. Bounds: made only by `GatherPlan::bind`, which
// proves every row of every operand; the kernel reads offsets, page lists and page ids once and
// follows only what is in range. Aliasing: the outputs are `TensorMut`, kept apart from all else; each
// row is written by one warp.
unsafe impl Launch for kv::Bound<'_, GatherParams> {
    launch_of_fields!();
}

// SAFETY: ABI, Residency: as above, with `MergeParams`. Bounds: made only by `MergePlan::bind`, which
// proves every row of every operand; the kernel reads no index from memory. Aliasing: the outputs are
// `TensorMut`, kept apart from each other and from every state.
unsafe impl Launch for merge::Bound<'_> {
    launch_of_fields!();
}

// SAFETY: ABI: `NormParams` is compared with the PTX, field by field, by tests/abi.rs. Bounds: made only
// by `NormPlan::bind`, which proves every row of every operand from shapes and strides; the kernel reads
// no index from memory. Aliasing: what is written is `TensorMut` and kept apart from all else, but for
// rows in place, which lie as what is read: each element is read by the thread that then writes it.
// Residency: `bind` checks the device of every operand, and that it is freed in the order of this stream
// or belongs to a promise.
unsafe impl Launch for elementwise::Bound<'_, NormParams> {
    launch_of_fields!();
}

// SAFETY: as above, with `PointwiseParams` and `PointwisePlan::bind`.
unsafe impl Launch for elementwise::Bound<'_, PointwiseParams> {
    launch_of_fields!();
}

// SAFETY: ABI, Aliasing, Residency: as above, with `EmbedParams` and nothing in place; the status word is
// only ever touched by atomics. Bounds: made only by `EmbedPlan::bind`, which proves every row of table,
// scales and result; the kernel checks each id where it reads it, and follows it only within the table.
unsafe impl Launch for elementwise::Bound<'_, EmbedParams> {
    launch_of_fields!();
}

// SAFETY: ABI, Aliasing, Residency: as above, with `SampleParams`. Bounds: made only by
// `SamplePlan::bind`, which proves every row of the logits and one option and token for each row; options
// are numbers that lead nowhere, and draws are given wherever temperatures are.
unsafe impl Launch for elementwise::Bound<'_, SampleParams> {
    launch_of_fields!();
}

// SAFETY: ABI: the four parameters are compared with the PTX, field by field, by tests/abi.rs; each
// is paired with a kernel of its family where it is made. Bounds: made only by the `bind` of the
// plans, which prove every row of every operand from shapes and strides, and the size of what lies in
// the workspace; the kernels check ids, offsets and order where they read them, and the emulator's
// hostile tests hold them to that. Aliasing: what is written is `TensorMut`, kept apart from
// everything else; the status word is only ever touched by atomics. Residency: `bind` checks the
// device of every operand, and that it is freed in the order of this stream or belongs to a promise.
unsafe impl Launch for moe::BoundLaunch<'_> {
    launch_of_fields!(launch => launch.params.bytes());
}

// SAFETY: ABI: `Int4Params` is compared with the PTX, field by field, by tests/abi.rs. Bounds: made
// only of an `int4::Bound`, which checks operands as a `gemm::Bound` does, and that codes, scales and
// zero points are as many as the packed layout of the plan's shape has; codes are values to the kernel
// and never lead anywhere. Aliasing and residency: as for `gemm::BoundLaunch`.
unsafe impl Launch for int4::BoundProduct<'_> {
    launch_of_fields!(launch => bytemuck::bytes_of(launch.params));
}

// SAFETY: ABI: `BlockParams` is compared with the PTX, field by field, by tests/abi.rs. Bounds: made
// only of a `blocks::Bound`, which checks operands as a `gemm::Bound` does, and that codes and scales
// are as many as the packed layout of the plan's shape has; they are values to the kernel and never
// lead anywhere. Aliasing and residency: as for `gemm::BoundLaunch`.
unsafe impl Launch for blocks::BoundBlocks<'_> {
    launch_of_fields!(launch => bytemuck::bytes_of(launch.params));
}

impl Stream {
    /// Whether work is being recorded into a graph.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn is_capturing(&self) -> Result<bool, DeviceError> {
        self.queue().is_capturing()
    }

    /// Enqueues a checked launch, unless the stream is recording a graph.
    pub(crate) fn enqueue(launch: &impl Launch) -> Result<(), DeviceError> {
        let stream = launch.stream_checked();
        if stream.is_capturing()? {
            return Err(DeviceError::Capturing);
        }
        // SAFETY: Nothing is recorded, so the borrows of the launch outlast its being enqueued.
        unsafe { Self::enqueue_captured(launch) }
    }

    /// Enqueues a checked launch, or records it.
    ///
    /// # Safety
    /// If the stream is recording a graph, what [`Launch`] demands of the operands holds for every
    /// replay, not only for now.
    pub(crate) unsafe fn enqueue_captured(launch: &impl Launch) -> Result<(), DeviceError> {
        let shape = launch.shape();
        if shape.grid.contains(&0) {
            return Ok(()); // Nothing to do; the driver would refuse an empty grid.
        }
        let kernel = launch.kernel();
        let stream = launch.stream_checked();
        if kernel.device().id() != stream.device().id() {
            return Err(DeviceError::WrongDevice {
                expected: stream.device().id(),
                got: kernel.device().id(),
            });
        }
        // SAFETY: The devices agree; the rest is what `Launch` vouches for.
        unsafe {
            stream
                .queue()
                .launch(&*kernel.loaded, shape, launch.params())
        }
    }
}
