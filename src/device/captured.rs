//! Plans running inside a graph, where addresses outlive the borrows of the operands.

use super::Stream;
use crate::attention::decode::{DecodeArgs, DecodeError, DecodePlan};
use crate::attention::merge::{MergeArgs, MergeError, MergePlan};
use crate::attention::mixed::{MixedArgs, MixedError, MixedPlan};
use crate::attention::mla::{MlaArgs, MlaError, MlaPlan};
use crate::attention::prefill::{PrefillArgs, PrefillError, PrefillPlan};
use crate::elementwise::{
    ElementwiseError, EmbedArgs, EmbedPlan, NormArgs, NormPlan, PointwiseArgs, PointwisePlan,
    SampleArgs, SamplePlan,
};
use crate::gemm::{GemmArgs, GemmError, GemmPlan};
use crate::int4::{Int4Args, Int4Error, Int4Plan};
use crate::kv::{
    AppendArgs, AppendPlan, CopyArgs, CopyPlan, GatherArgs, GatherPlan, KvError, MlaAppendArgs,
    MlaAppendPlan, RotateArgs, RotatePlan,
};
use crate::moe::{
    CombineArgs, CombinePlan, GroupedArgs, GroupedPlan, MoeArgs, MoeError, MoePlan, PermuteArgs,
    PermutePlan, RouteArgs, RoutePlan,
};

/// Gives a plan `run_captured`: binds the operands, and records the launches in this order.
macro_rules! captured {
    (
        $(#[$note:meta])*
        $plan:ident($args:ident) -> $error:ident:
        |$this:ident, $stream:ident, $operands:ident| $bind:expr => $bound:ident: $($launches:expr),+
    ) => {
        /// Running inside a graph, where the addresses outlive the borrows.
        impl $plan {
            #[doc = concat!("As [`", stringify!($plan), "::run`], also on a stream that is recording a graph.")]
            $(#[$note])*
            ///
            /// # Errors
            #[doc = concat!("As for [`", stringify!($plan), "::run`].")]
            ///
            /// # Safety
            /// Until the last replay of a graph that this is recorded into has finished: no operand is
            /// freed, and none is used in a way that is not ordered with the replays. The device and
            /// this plan's handle of it stay alive as long.
            pub unsafe fn run_captured(
                &self,
                stream: &Stream,
                args: $args<'_>,
            ) -> Result<(), $error> {
                let ($this, $stream, $operands) = (self, stream, args);
                let $bound = $bind?;
                $(for launch in $launches {
                    // SAFETY: What the operands must keep for replays is what the caller promises.
                    unsafe { Stream::enqueue_captured(&launch) }?;
                })+
                Ok(())
            }
        }
    };
}

captured! {
    PrefillPlan(PrefillArgs) -> PrefillError:
    |plan, stream, args| plan.bind(stream, args) => bound: [bound]
}
captured! {
    /// Replays may have other lengths, page tables and keys in the same memory.
    DecodePlan(DecodeArgs) -> DecodeError:
    |plan, stream, args| plan.bind(stream, args) => bound: [bound.shares()], bound.merge().into_iter()
}
captured! {
    /// Replays may have other lengths, page tables and latents in the same memory.
    MlaPlan(MlaArgs) -> MlaError:
    |plan, stream, args| plan.bind(stream, args) => bound: [bound.shares()], bound.merge().into_iter()
}
captured! {
    GemmPlan(GemmArgs) -> GemmError:
    |plan, stream, args| plan.bind(stream, args) => bound: [bound.product()], bound.sums().into_iter()
}
captured! {
    Int4Plan(Int4Args) -> Int4Error:
    |plan, stream, args| plan.bind(stream, args) => bound: [bound.product()], bound.sums().into_iter()
}
captured! {
    /// The number of tokens is recorded; replays route them anew.
    MoePlan(MoeArgs) -> MoeError:
    |plan, stream, args| plan.bind(stream, &args) => launches: launches
}
captured! {
    RoutePlan(RouteArgs) -> MoeError:
    |plan, stream, args| plan.bind(stream, &args) => launches: launches
}
captured! {
    PermutePlan(PermuteArgs) -> MoeError:
    |plan, stream, args| plan.bind(stream, &args) => launches: launches
}
captured! {
    GroupedPlan(GroupedArgs) -> MoeError:
    |plan, stream, args| plan.bind(stream, &args) => launches: launches
}
captured! {
    CombinePlan(CombineArgs) -> MoeError:
    |plan, stream, args| plan.bind(stream, &args) => launches: launches
}
captured! {
    /// The number of tokens is recorded; slots and positions are read by each replay.
    AppendPlan(AppendArgs) -> KvError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// The number of tokens is recorded; slots and positions are read by each replay.
    MlaAppendPlan(MlaAppendArgs) -> KvError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// The number of tokens is recorded; positions are read by each replay.
    RotatePlan(RotateArgs) -> KvError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// The number of pairs is recorded, the pairs are read by each replay: fill up with pairs of
    /// equal ids.
    CopyPlan(CopyArgs) -> KvError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// Offsets and pages are read by each replay.
    GatherPlan(GatherArgs) -> KvError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    MergePlan(MergeArgs) -> MergeError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    NormPlan(NormArgs) -> ElementwiseError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    PointwisePlan(PointwiseArgs) -> ElementwiseError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// Replays may have other ids in the same memory.
    EmbedPlan(EmbedArgs) -> ElementwiseError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}
captured! {
    /// Replays may have other logits, options and draws in the same memory.
    SamplePlan(SampleArgs) -> ElementwiseError:
    |plan, stream, args| plan.bind(stream, &args) => bound: [bound]
}

/// Running inside a graph, where the addresses outlive the borrows.
impl MixedPlan {
    /// As [`MixedPlan::run`], also on a stream that is recording a graph. How many sequences decode is
    /// recorded; lengths, page tables and keys are read by each replay.
    ///
    /// # Errors
    /// As for [`MixedPlan::run`].
    ///
    /// # Safety
    /// As for [`DecodePlan::run_captured`].
    pub unsafe fn run_captured(
        &self,
        stream: &Stream,
        mut args: MixedArgs<'_>,
    ) -> Result<(), MixedError> {
        self.check(stream, &mut args)?;
        let batch = self.batch();
        if let Some(plan) = self.decode() {
            // SAFETY: What the operands must keep for replays is what the caller promises.
            unsafe { plan.run_captured(stream, args.decode(batch, self.decodes())?) }?;
        }
        if let Some(plan) = self.prefill() {
            // SAFETY: As above.
            unsafe { plan.run_captured(stream, args.prefill(batch, self.prefills())?) }?;
        }
        Ok(())
    }
}
