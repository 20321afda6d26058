//! What can be used from several threads, stated where a change would not compile.

use half::bf16;
use infer_kernels::attention::merge::{MergeArgs, MergeError, MergePlan};
use infer_kernels::attention::mla::{MlaArgs, MlaError, MlaPlan, MlaProblem};
use infer_kernels::attention::prefill::{
    Kv, PrefillArgs, PrefillError, PrefillPlan, PrefillProblem,
};
use infer_kernels::attention::{CuSeqLens, SeqLens, SeqLensError};
use infer_kernels::elementwise::{
    ElementwiseError, EmbedArgs, EmbedPlan, NormArgs, NormPlan, PointwiseArgs, PointwisePlan,
    SampleArgs, SamplePlan,
};
use infer_kernels::kv::{
    AppendArgs, AppendPlan, AppendProblem, CopyArgs, CopyPlan, GatherArgs, GatherPlan, KvError,
    MlaAppendArgs, MlaAppendPlan, RotateArgs, RotatePlan,
};
use infer_kernels::moe::{
    CombinePlan, GroupedPlan, MoeArgs, MoeError, MoePlan, MoeProblem, PermutePlan, RoutePlan,
};
use infer_kernels::{
    Buffer, Device, DeviceError, Region, RegionMut, StatusReport, StatusWord, Stream, Tensor,
    TensorMut,
};

const fn send_and_sync<T: Send + Sync>() {}
const fn error<T: std::error::Error + Send + Sync + 'static>() {}

const _: () = {
    send_and_sync::<Device>();
    send_and_sync::<Stream>();
    send_and_sync::<Buffer<bf16>>();
    send_and_sync::<Region<'static>>();
    send_and_sync::<RegionMut<'static>>();
    send_and_sync::<Tensor<'static, 3>>();
    send_and_sync::<TensorMut<'static, 3>>();
    send_and_sync::<StatusWord>();
    send_and_sync::<StatusReport>();
    send_and_sync::<SeqLens>();
    send_and_sync::<CuSeqLens<'static>>();
    send_and_sync::<PrefillProblem>();
    send_and_sync::<PrefillPlan>();
    send_and_sync::<PrefillArgs<'static>>();
    send_and_sync::<Kv<'static>>();
    send_and_sync::<MlaProblem>();
    send_and_sync::<MlaPlan>();
    send_and_sync::<MlaArgs<'static>>();
    send_and_sync::<AppendProblem>();
    send_and_sync::<AppendPlan>();
    send_and_sync::<AppendArgs<'static>>();
    send_and_sync::<MlaAppendPlan>();
    send_and_sync::<MlaAppendArgs<'static>>();
    send_and_sync::<RotatePlan>();
    send_and_sync::<RotateArgs<'static>>();
    send_and_sync::<CopyPlan>();
    send_and_sync::<CopyArgs<'static>>();
    send_and_sync::<GatherPlan>();
    send_and_sync::<GatherArgs<'static>>();
    send_and_sync::<MergePlan>();
    send_and_sync::<MergeArgs<'static>>();
    send_and_sync::<MoeProblem>();
    send_and_sync::<MoePlan>();
    send_and_sync::<MoeArgs<'static>>();
    send_and_sync::<RoutePlan>();
    send_and_sync::<PermutePlan>();
    send_and_sync::<GroupedPlan>();
    send_and_sync::<CombinePlan>();
    send_and_sync::<NormPlan>();
    send_and_sync::<NormArgs<'static>>();
    send_and_sync::<PointwisePlan>();
    send_and_sync::<PointwiseArgs<'static>>();
    send_and_sync::<SamplePlan>();
    send_and_sync::<SampleArgs<'static>>();
    send_and_sync::<EmbedPlan>();
    send_and_sync::<EmbedArgs<'static>>();
    error::<ElementwiseError>();
    error::<MlaError>();
    error::<MoeError>();
    error::<DeviceError>();
    error::<PrefillError>();
    error::<KvError>();
    error::<MergeError>();
    error::<SeqLensError>();
    error::<StatusReport>();
};

#[cfg(feature = "cust")]
const _: () = send_and_sync::<infer_kernels::CustBuffer<u16>>();

#[cfg(feature = "emulator")]
mod emulator {
    use super::*;
    use infer_kernels::DType;
    use infer_kernels::attention::prefill::HeadShape;

    /// One plan, used by several threads at once on one device.
    #[test]
    fn threads_share_a_plan() {
        let device = Device::emulator(Default::default());
        let heads = HeadShape {
            query: 1,
            kv: 1,
            dim: 64,
        };
        let plan = PrefillPlan::new(&device, &PrefillProblem::new(DType::BF16, heads, 1, 9));
        let plan = plan.unwrap();
        std::thread::scope(|scope| {
            for value in [1.0f32, 2.0, 3.0, 4.0] {
                let (plan, stream) = (&plan, device.stream());
                scope.spawn(move || {
                    let ones = vec![bf16::from_f32(value); 9 * 64];
                    let input = stream.upload(&ones).unwrap();
                    let mut out = stream.alloc::<bf16>(9 * 64).unwrap();
                    let lens = SeqLens::from_lengths(&stream, &[9]).unwrap();
                    let status = StatusWord::new(&stream).unwrap();
                    let args = PrefillArgs::new(
                        input.tensor([9, 1, 64]).unwrap(),
                        Kv::Ragged {
                            k: input.tensor([9, 1, 64]).unwrap(),
                            v: input.tensor([9, 1, 64]).unwrap(),
                            seqlens: (&lens).into(),
                        },
                        out.tensor_mut([9, 1, 64]).unwrap(),
                        &lens,
                        &status,
                    );
                    plan.run(&stream, args).unwrap();
                    assert_eq!(out.download().unwrap(), ones);
                });
            }
        });
    }

    /// Several devices in a process, each with memory of its own.
    #[test]
    fn devices_are_apart() {
        let [a, b] = [(); 2].map(|()| Device::emulator(Default::default()));
        assert_ne!(a.id(), b.id());
        let ours = a.stream().upload(&[1.0f32]).unwrap();
        let theirs = b.stream().upload(&[2.0f32]).unwrap();
        assert_eq!(ours.download().unwrap(), [1.0]);
        assert_eq!(theirs.download().unwrap(), [2.0]);
        assert_ne!(ours.region().place(), theirs.region().place());
    }
}
