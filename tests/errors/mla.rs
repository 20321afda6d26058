//! What latent attention can be refused for.

use half::bf16;
use infer_kernels::attention::mla::{MlaArgs, MlaError, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::{PageTable, PrefillError};
use infer_kernels::attention::{CuSeqLens, SeqLens};
use infer_kernels::kv::MlaCache;
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{
    Buffer, DType, Device, DeviceError, OperandError, RegionMut, StatusWord, Stream,
};

use crate::common::device;

const HEADS: usize = 3;
const BATCH: usize = 2;
const PAGE: usize = 4;

/// A call on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    q: Buffer<bf16>,
    pool: Buffer<bf16>,
    spare: Buffer<f32>,
    table: Buffer<u32>,
    seqlens: Buffer<i32>,
    out: Buffer<bf16>,
    lse: Buffer<f32>,
    workspace: Buffer<f32>,
    status: StatusWord,
    plan: MlaPlan,
    lens: Option<SeqLens>,
}

fn problem() -> MlaProblem {
    MlaProblem::new(DType::BF16, HEADS, BATCH, PAGE).blocks(2)
}

impl Setup {
    fn new(problem: &MlaProblem) -> Setup {
        let device = device();
        let stream = device.stream();
        let plan = MlaPlan::new(&device, problem).unwrap();
        let alloc = |len: usize| stream.alloc::<bf16>(len).unwrap();
        Setup {
            q: alloc(3 * BATCH * HEADS * 576),
            pool: alloc(3 * PAGE * 576),
            spare: stream.alloc(4096).unwrap(),
            table: stream.upload(&[0u32, 1, 2, 0]).unwrap(),
            seqlens: stream.upload(&[5i32, 3]).unwrap(),
            out: alloc(3 * BATCH * HEADS * 512),
            lse: stream.alloc(3 * BATCH * HEADS).unwrap(),
            workspace: stream.alloc(plan.workspace_elements() + 8).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            lens: None,
            device,
            stream,
            plan,
        }
    }

    fn run(
        &mut self,
        rows: usize,
        change: impl for<'s> FnOnce(MlaArgs<'s>, &'s Buffer<f32>) -> MlaArgs<'s>,
    ) -> Result<(), MlaError> {
        let elements = self.plan.workspace_elements() + 1;
        let args = MlaArgs {
            q: MlaQueries::Joined(self.q.tensor([rows, HEADS, 576]).unwrap()),
            cache: MlaCache::Joined(self.pool.tensor([3, PAGE, 576]).unwrap()),
            pages: PageTable::Rows(self.table.tensor([BATCH, 2]).unwrap()),
            seqlens_k: self.seqlens.tensor([BATCH]).unwrap(),
            out: self.out.tensor_mut([rows, HEADS, 512]).unwrap(),
            lse: (self.plan.problem().lse).then(|| self.lse.tensor_mut([HEADS, rows]).unwrap()),
            seqlens_q: self.lens.as_ref().map(CuSeqLens::from),
            workspace: self.workspace.tensor_mut([elements]).unwrap(),
            status: &self.status,
        };
        self.plan.run(&self.stream, change(args, &self.spare))
    }

    /// Why a call of one query each is refused.
    fn refusal(
        &mut self,
        change: impl for<'s> FnOnce(MlaArgs<'s>, &'s Buffer<f32>) -> MlaArgs<'s>,
    ) -> String {
        self.run(BATCH, change).unwrap_err().to_string()
    }
}

fn refused(problem: MlaProblem) -> String {
    let refusal = problem.supports().unwrap_err();
    let planned = MlaPlan::new(&device(), &problem).unwrap_err();
    assert_eq!(refusal.to_string(), planned.to_string());
    refusal.to_string()
}

#[test]
fn nothing_wrong_is_accepted() {
    for problem in [problem(), problem().max_queries(3).lse(true).rows(64)] {
        let mut setup = Setup::new(&problem);
        for queries in 0..=problem.max_queries {
            setup.run(queries * BATCH, |args, _| args).unwrap();
        }
        assert!(setup.status.read().unwrap().is_clean());
    }
}

#[test]
fn unsupported_dtype() {
    assert_eq!(
        refused(MlaProblem::new(DType::F32, HEADS, BATCH, PAGE)),
        r#"no MLA kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
}

#[test]
fn unsupported_dims() {
    for dims in [(256, 64), (512, 32), (0, 0), (usize::MAX, 64)] {
        let mut problem = problem();
        (problem.latent_dim, problem.rope_dim) = dims;
        let text = format!(
            "no MLA kernel for latents of {} and rotary keys of {} elements: there is one for 512 \
             and 64",
            dims.0, dims.1
        );
        assert_eq!(refused(problem), text);
    }
}

#[test]
fn heads() {
    for heads in [0, (1 << 16) + 1] {
        let text = format!("query heads: expected 1 to 65536, got {heads}");
        assert_eq!(
            refused(MlaProblem::new(DType::BF16, heads, BATCH, PAGE)),
            text
        );
    }
}

#[test]
fn unsupported_rows() {
    assert_eq!(
        refused(problem().rows(32)),
        "no MLA kernel with items of 32 rows: there are [16, 64]"
    );
}

#[test]
fn blocks() {
    for blocks in [0, (1 << 20) + 1] {
        let text = format!("blocks: expected 1 to 1048576, got {blocks}");
        assert_eq!(refused(problem().blocks(blocks)), text);
    }
}

#[test]
fn too_many_rows() {
    assert_eq!(
        refused(problem().max_queries(1 << 28)),
        "rows of all sequences: expected at most 1073741824, got 1610612736"
    );
}

#[test]
fn what_any_attention_is_refused_for() {
    for (problem, error) in [
        (problem().scale(-1.0), PrefillError::Scale { got: -1.0 }),
        (
            MlaProblem::new(DType::BF16, HEADS, BATCH, 0),
            PrefillError::PageSize {
                expected: 1,
                got: 0,
            },
        ),
        (
            MlaProblem::new(DType::BF16, HEADS, 1 << 16, PAGE),
            PrefillError::Limit {
                what: "sequences",
                expected: 65_535,
                got: 1 << 16,
            },
        ),
    ] {
        assert_eq!(refused(problem), error.to_string());
    }
}

#[test]
fn queries_that_are_not_as_many_for_each_sequence() {
    let mut setup = Setup::new(&problem().max_queries(3));
    assert_eq!(
        setup.run(3, |args, _| args).unwrap_err().to_string(),
        "q: expected a multiple of 2 rows, as many for each sequence, got 3"
    );
    let mut setup = Setup::new(&problem());
    assert_eq!(
        setup
            .run(2 * BATCH, |args, _| args)
            .unwrap_err()
            .to_string(),
        "q: expected sequences of at most 1 queries as planned, got 2"
    );
}

#[test]
fn offsets_that_do_not_fit() {
    for (lengths, text) in [
        (
            vec![2, 0],
            "seqlens_q: expected sequences of at most 1 queries as planned, got 2",
        ),
        (
            vec![1, 1, 1],
            "seqlens_q: expected sequences within 2 rows, got 3",
        ),
        (vec![1], "seqlens_q: expected 2 sequences as planned, got 1"),
    ] {
        let mut setup = Setup::new(&problem());
        setup.lens = Some(SeqLens::from_lengths(&setup.stream, &lengths).unwrap());
        assert_eq!(setup.refusal(|args, _| args), text);
    }
}

#[test]
fn operands_of_another_shape_or_type() {
    let mut setup = Setup::new(&problem());
    let text = setup.refusal(|mut args, spare| {
        args.cache = MlaCache::Joined(spare.tensor([1, PAGE, 576]).unwrap());
        args
    });
    assert!(text.contains("cache") && text.contains("f32"), "{text}");
    let text = setup.refusal(|mut args, _| {
        let MlaCache::Joined(cache) = args.cache else {
            panic!("joined above")
        };
        args.cache = MlaCache::Joined(cache.narrow(2, 0..512).unwrap());
        args
    });
    assert!(text.starts_with("cache:"), "{text}");
    let text = setup.refusal(|mut args, _| {
        let MlaCache::Joined(cache) = args.cache else {
            panic!("joined above")
        };
        let rope = cache.narrow(2, 0..64).unwrap();
        let rope = rope.narrow(0, 0..2).unwrap();
        args.cache = MlaCache::Split {
            latent: cache.narrow(2, 0..512).unwrap(),
            rope,
        };
        args
    });
    assert!(text.starts_with("rope cache:"), "{text}");
    let text = setup.refusal(|mut args, _| {
        let MlaQueries::Joined(q) = args.q else {
            panic!("joined above")
        };
        args.q = MlaQueries::Split {
            latent: q.narrow(2, 0..512).unwrap(),
            rope: q.narrow(2, 4..68).unwrap(),
        };
        args
    });
    assert!(text.starts_with("rotary queries:"), "{text}");
}

#[test]
fn a_log_sum_exp_that_was_not_planned() {
    let mut setup = Setup::new(&problem().lse(true));
    let text = setup.refusal(|mut args, _| {
        args.lse = None;
        args
    });
    let (expected, got) = (true, false);
    assert_eq!(text, PrefillError::Lse { expected, got }.to_string());
}

#[test]
fn workspaces() {
    let mut setup = Setup::new(&problem());
    let elements = setup.plan.workspace_elements();
    assert_eq!(elements, 2 * 2 * 16 * 514 + 2 * 5);
    assert_eq!(setup.plan.workspace_bytes(), 4 * elements);
    let text = setup.refusal(|mut args, _| {
        args.workspace = args.workspace.narrow(0, 0..elements - 1).unwrap();
        args
    });
    let got = elements - 1;
    assert_eq!(
        text,
        format!("workspace: expected at least {elements} elements, got {got}")
    );
    let error = setup.run(BATCH, |mut args, _| {
        args.workspace = args.workspace.narrow(0, 1..elements + 1).unwrap();
        args
    });
    assert!(matches!(
        operand(&error.unwrap_err()),
        OperandError::BaseAlignment {
            tensor: "workspace",
            ..
        }
    ));
}

#[test]
fn workspaces_that_are_something_else_too() {
    let mut setup = Setup::new(&problem().lse(true));
    let elements = setup.plan.workspace_elements();
    let device = setup.device.clone();
    for (name, address) in [
        ("q", setup.q.tensor([1]).unwrap().address()),
        ("cache", setup.pool.tensor([1]).unwrap().address()),
        ("seqlens_k", setup.seqlens.tensor([1]).unwrap().address()),
        ("page table", setup.table.tensor([1]).unwrap().address()),
        ("out", setup.out.tensor([1]).unwrap().address()),
        ("lse", setup.lse.tensor([1]).unwrap().address()),
    ] {
        // SAFETY: The run is refused: nothing is read or written.
        let region =
            unsafe { RegionMut::from_raw_parts(address, elements as u64, DType::F32, &device) };
        let workspace = region.strided(0, [elements], [1]).unwrap();
        let error = setup.run(BATCH, |mut args, _| {
            args.workspace = workspace;
            args
        });
        let error = error.unwrap_err();
        assert!(
            matches!(operand(&error), OperandError::Overlap { tensor: "workspace", other, .. } if *other == name),
            "{name}: {error}"
        );
    }
}

/// A device without the shared memory for 64 rows takes 16, unless 64 are asked for.
#[test]
fn devices_that_are_too_small_or_too_old() {
    let on = |gpu: Gpu| {
        Device::emulator(Config {
            gpu,
            ..Config::default()
        })
    };
    let many = MlaProblem::new(DType::BF16, 128, BATCH, PAGE);
    let small = on(Gpu::RTX_4090);
    assert_eq!(MlaPlan::new(&small, &many).unwrap().entry(), "mla_bf16_16");
    assert_eq!(
        MlaPlan::new(&on(Gpu::A100), &many).unwrap().entry(),
        "mla_bf16_64"
    );
    assert_eq!(
        MlaPlan::new(&on(Gpu::A100), &problem()).unwrap().entry(),
        "mla_bf16_16"
    );
    for error in [
        MlaPlan::new(&small, &many.rows(64)).unwrap_err(),
        MlaPlan::new(&on(Gpu::T4), &problem()).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                MlaError::Attention(PrefillError::Device(DeviceError::Unfit { .. }))
            ),
            "{error}"
        );
    }
}

#[test]
fn plans_say_what_they_do() {
    let device = Device::emulator(Config::default());
    let problem = MlaProblem::new(DType::F16, 128, 4, 64)
        .max_queries(2)
        .lse(true);
    let plan = MlaPlan::new(&device, &problem.blocks(108)).unwrap();
    let text = plan.to_string();
    for part in [
        "mla_f16_64: 64 rows by 32 tokens per step, 256 threads",
        "causal latent attention of 128 query heads to pages of 64 tokens, 4 sequences of at most 2 queries",
        "with log-sum-exp",
        "108 blocks with equal shares",
        "279040 bytes per query, 1152 per token, read for each 64 of 256 rows",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert_eq!(plan.operand_bytes(2, 10), 2 * 279_040 + 11_520 + 16);
}

fn operand(error: &MlaError) -> &OperandError {
    match error {
        MlaError::Attention(PrefillError::Operand(error)) => error,
        other => panic!("{other}"),
    }
}
