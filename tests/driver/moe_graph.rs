//! A mixture of experts, recorded once and replayed with tokens that choose other experts.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use half::f16;
use infer_kernels::moe::{MoeArgs, MoePlan, MoeProblem, Routing};
use infer_kernels::{Buffer, DType, StatusWord, Stream};

use crate::emulated_alone;

const EXPERTS: usize = 4;
const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 16;

/// A layer with its operands.
struct Layer {
    plan: MoePlan,
    tokens: usize,
    x: Buffer<f16>,
    logits: Buffer<f32>,
    w: Buffer<f16>,
    y: Buffer<f16>,
    workspace: Buffer<u8>,
    status: StatusWord,
}

impl Layer {
    fn new(stream: &Stream, tokens: usize) -> Layer {
        let routing = Routing::new(EXPERTS, 2);
        let problem = MoeProblem::new(DType::F16, routing, tokens, HIDDEN, INTERMEDIATE);
        let plan = MoePlan::new(stream.device(), &problem).unwrap();
        let w = (0..EXPERTS * HIDDEN * INTERMEDIATE).map(|i| f16::from_f32((i as f32 * 0.3).sin()));
        Layer {
            tokens,
            x: stream.alloc(tokens * HIDDEN).unwrap(),
            logits: stream.alloc(tokens * EXPERTS).unwrap(),
            w: stream.upload(&w.collect::<Vec<_>>()).unwrap(),
            y: stream.alloc(tokens * HIDDEN).unwrap(),
            workspace: stream.alloc(plan.workspace_bytes()).unwrap(),
            status: StatusWord::new(stream).unwrap(),
            plan,
        }
    }

    fn set(&mut self, step: usize) {
        let number = |i: usize| ((i * 7 + step * 13) as f32 * 0.61).sin();
        let x = (0..self.x.len()).map(|i| f16::from_f32(number(i)));
        self.x.upload(&x.collect::<Vec<_>>()).unwrap();
        let logits = (0..self.logits.len()).map(|i| 4.0 * number(i + 1000));
        self.logits.upload(&logits.collect::<Vec<_>>()).unwrap();
    }

    fn args(&mut self) -> (&MoePlan, MoeArgs<'_>) {
        let up = [EXPERTS, INTERMEDIATE, HIDDEN];
        let args = MoeArgs {
            w_up: Some(self.w.tensor(up).unwrap()),
            ..MoeArgs::new(
                self.x.tensor([self.tokens, HIDDEN]).unwrap(),
                self.logits.tensor([self.tokens, EXPERTS]).unwrap(),
                self.w.tensor(up).unwrap(),
                self.w.tensor([EXPERTS, HIDDEN, INTERMEDIATE]).unwrap(),
                self.y.tensor_mut([self.tokens, HIDDEN]).unwrap(),
                self.workspace
                    .tensor_mut([self.plan.workspace_bytes()])
                    .unwrap(),
                &self.status,
            )
        };
        (&self.plan, args)
    }
}

/// With few tokens, which take a path of their own, and with many.
#[test]
fn a_recorded_layer_routes_anew() {
    let stream = emulated_alone("cudarc").new_stream().unwrap();
    let own = stream.as_cudarc().unwrap();
    for tokens in [3, 40] {
        let (mut recorded, mut fresh) = (Layer::new(&stream, tokens), Layer::new(&stream, tokens));
        stream.synchronize().unwrap();
        own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        let (plan, args) = recorded.args();
        // SAFETY: The buffers outlive the graph, and all work is on one stream.
        unsafe { plan.run_captured(&stream, args) }.unwrap();
        let graph = own
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        let mut before = Vec::new();
        for step in 0..3 {
            recorded.set(step);
            graph.launch().unwrap();
            fresh.set(step);
            let (plan, args) = fresh.args();
            plan.run(&stream, args).unwrap();
            let y = recorded.y.download().unwrap();
            assert_eq!(
                y,
                fresh.y.download().unwrap(),
                "{tokens} tokens, step {step}"
            );
            assert_ne!(y, before);
            before = y;
        }
        assert!(recorded.status.read().unwrap().is_clean());
    }
}
