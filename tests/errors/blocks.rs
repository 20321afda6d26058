//! What weights in blocks, and products with them, can be refused for, beside what any product can.

use half::{bf16, f16};
use infer_kernels::blocks::{
    BlockArgs, BlockBuffers, BlockError, BlockFormat, BlockPlan, BlockProblem, BlockWeight,
    PackError,
};
use infer_kernels::gemm::{Activation, GemmError, GemmProblem};
use infer_kernels::{Buffer, DType, Device, OperandError, Stream};

use crate::common::device;

fn told(result: Result<BlockWeight, PackError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn lengths_and_sizes_that_do_not_fit() {
    BlockWeight::pack(BlockFormat::Q8_0, 64, 2, &[0; 136]).unwrap();
    for bytes in [0, 135, 137] {
        assert_eq!(
            told(BlockWeight::pack(BlockFormat::Q8_0, 64, 2, &vec![0; bytes])),
            format!("bytes of blocks: expected 136 elements, got {bytes}")
        );
    }
    assert_eq!(
        told(BlockWeight::pack(BlockFormat::Q8_0, 40, 0, &[])),
        "k = 40 is not a multiple of 32"
    );
    assert_eq!(
        told(BlockWeight::pack(BlockFormat::Q6_K, 640, 1, &[0; 525])),
        "k = 640 is not a multiple of 256"
    );
}

#[test]
fn more_than_kernels_address() {
    let expected = i32::MAX as usize - 1024;
    assert_eq!(
        BlockWeight::pack(BlockFormat::Q4_K, 1 << 31, 0, &[]),
        Err(PackError::Limit {
            what: "rows",
            expected,
            got: 1 << 31
        })
    );
    assert_eq!(
        told(BlockWeight::pack(BlockFormat::Q4_K, 0, 1 << 31, &[])),
        "columns: expected at most 2147482623, got 2147483648"
    );
    let large = 1 << 30;
    assert_eq!(
        BlockWeight::pack(BlockFormat::Q8_0, large, large, &[]),
        Err(PackError::Limit {
            what: "words of codes",
            expected: 1 << 40,
            got: 1 << 58
        })
    );
}

#[test]
fn scales_that_are_no_numbers() {
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        // The scale of Q8_0, the offset of Q4_1, the scale of Q6_K, the minimum of Q5_K: of column
        // 1, and of its second block.
        for (format, at, group) in [
            (BlockFormat::Q8_0, 0, 1),
            (BlockFormat::Q4_1, 2, 1),
            (BlockFormat::Q6_K, 208, 8),
            (BlockFormat::Q5_K, 2, 8),
        ] {
            let mut blocks = vec![0; 4 * format.bytes()];
            blocks[3 * format.bytes() + at..][..2].copy_from_slice(&bad.to_le_bytes());
            let refused = BlockWeight::pack(format, 2 * format.rows(), 2, &blocks);
            let Err(PackError::Scale {
                group: of,
                column,
                got,
            }) = refused
            else {
                panic!("{bad} was packed");
            };
            assert_eq!((of, column), (group, 1), "{format}");
            assert!(!got.is_finite());
        }
    }
}

const M: usize = 3;
const N: usize = 40;
const K: usize = 1024;

/// A product on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    x: Buffer<bf16>,
    w: BlockBuffers,
    other: BlockBuffers,
    y: Buffer<bf16>,
    workspace: Buffer<f32>,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        let packed = |format: BlockFormat| {
            let blocks = vec![0; N * K / format.rows() * format.bytes()];
            let w = BlockWeight::pack(format, K, N, &blocks).unwrap();
            w.upload(&stream).unwrap()
        };
        Setup {
            x: stream.upload(&[bf16::ONE; M * (K + 4)]).unwrap(),
            w: packed(BlockFormat::Q8_0),
            other: packed(BlockFormat::Q5_0),
            y: stream.alloc(M * N).unwrap(),
            workspace: stream.alloc(2 * M * N).unwrap(),
            device,
            stream,
        }
    }

    fn problem() -> BlockProblem {
        BlockProblem::new(GemmProblem::new(DType::BF16, M, N, K), BlockFormat::Q8_0)
    }

    #[expect(clippy::result_large_err, reason = "it is what is looked at")]
    fn result<'s>(
        &'s mut self,
        product: GemmProblem,
        change: impl FnOnce(&mut BlockArgs<'s>, &'s BlockBuffers, &'s Buffer<bf16>),
    ) -> Result<(), BlockError> {
        let problem = BlockProblem::new(product, BlockFormat::Q8_0);
        let plan = BlockPlan::new(&self.device, &problem)?;
        let mut args = BlockArgs {
            workspace: Some(self.workspace.tensor_mut([2 * M * N]).unwrap()),
            ..BlockArgs::new(
                self.x.tensor([M, K]).unwrap(),
                self.w.tensors(),
                self.y.tensor_mut([M, N]).unwrap(),
            )
        };
        change(&mut args, &self.other, &self.x);
        plan.run(&self.stream, args)
    }

    fn told<'s>(
        &'s mut self,
        change: impl FnOnce(&mut BlockArgs<'s>, &'s BlockBuffers, &'s Buffer<bf16>),
    ) -> String {
        let product = Self::problem().product.splits(Some(1));
        self.result(product, change).unwrap_err().to_string()
    }
}

fn refused(problem: BlockProblem) -> BlockError {
    let refusal = problem.supports().unwrap_err();
    let planned = BlockPlan::new(&device(), &problem).unwrap_err();
    assert_eq!(refusal.to_string(), planned.to_string());
    refusal
}

#[test]
fn nothing_wrong_is_accepted() {
    let mut setup = Setup::new();
    let product = Setup::problem().product.splits(Some(1));
    setup.result(product, |_, _, _| {}).unwrap();
    assert_eq!(setup.y.download().unwrap(), [bf16::ZERO; M * N]);
}

#[test]
fn unsupported_problems() {
    let product = || Setup::problem().product;
    let of = |product| refused(BlockProblem::new(product, BlockFormat::Q6_K));
    assert_eq!(
        of(GemmProblem::new(DType::BF16, M, N, 96)).to_string(),
        "k = 96 is not a multiple of 256"
    );
    assert!(matches!(
        of(GemmProblem::new(DType::BF16, M, N, 1 << 31)),
        BlockError::Shape(PackError::Limit { what: "rows", .. })
    ));
    assert_eq!(
        of(GemmProblem::new(DType::F32, M, N, K)).to_string(),
        r#"no GEMM kernel for elements of type f32: there are ["bf16", "f16"]"#
    );
    assert_eq!(
        of(product().out(DType::F16)).to_string(),
        "y: expected bf16 or f32, got f16"
    );
    assert!(matches!(
        of(product().activation(Activation::ClampedSwiglu)),
        BlockError::Product(GemmError::NotGated)
    ));
    assert_eq!(
        of(product().tile(Some([64, 256]))).to_string(),
        "no GEMM kernel with tile [64, 256] for these operands: there are [[16, 64]]"
    );
}

#[test]
fn weights_of_another_format_or_shape() {
    let mut setup = Setup::new();
    let told = setup.told(|args, other, _| args.w = other.tensors());
    assert_eq!(told, "w codes: the plan is for Q8_0, the weights are Q5_0");
    let told = setup.told(|args, _, _| args.w.codes = args.w.codes.narrow(0, 0..500).unwrap());
    assert_eq!(told, "w codes: expected shape [16384], got [500]");
    let told = setup.told(|args, _, _| args.w.scales = args.w.codes);
    assert_eq!(told, "w scales: expected shape [1024], got [16384]");
}

#[test]
fn what_any_product_is_refused_for() {
    let mut setup = Setup::new();
    let told = setup.told(|args, other, _| args.w_up = Some(other.tensors()));
    assert_eq!(told, "w_up: the plan is not gated, the call has up weights");
    let told = setup.told(|args, _, x| {
        args.x = x.region().strided(0, [M, K], [K as i64 + 4, 1]).unwrap();
    });
    assert!(told.starts_with("x:"), "{told}");
    let split = Setup::problem().product.splits(Some(2));
    let refusal = setup.result(split, |args, _, _| args.workspace = None);
    assert!(matches!(
        refusal,
        Err(BlockError::Product(GemmError::Workspace {
            expected: 240,
            got: 0
        }))
    ));
    let small = GemmProblem::new(DType::BF16, 2, N, K).splits(Some(1));
    let refusal = setup.result(small, |_, _, _| {});
    assert!(matches!(
        refusal,
        Err(BlockError::Product(GemmError::Rows {
            expected: 2,
            got: 3
        }))
    ));
    let other = device();
    let elsewhere = other.stream().upload(&[bf16::ONE; M * K]).unwrap();
    let problem = BlockProblem::new(Setup::problem().product.splits(Some(1)), BlockFormat::Q8_0);
    let plan = BlockPlan::new(&setup.device, &problem).unwrap();
    let args = BlockArgs::new(
        elsewhere.tensor([M, K]).unwrap(),
        setup.w.tensors(),
        setup.y.tensor_mut([M, N]).unwrap(),
    );
    assert!(matches!(
        plan.run(&setup.stream, args),
        Err(BlockError::Operand(OperandError::Device {
            tensor: "x",
            ..
        }))
    ));
}
