//! What a product with 4-bit weights can be refused for, beside what any product can.

use half::bf16;
use infer_kernels::gemm::{Activation, GemmError, GemmProblem};
use infer_kernels::int4::{
    Codes, Int4Args, Int4Buffers, Int4Error, Int4Plan, Int4Problem, Quantizer,
};
use infer_kernels::{Buffer, DType, Device, OperandError, Stream};

use crate::common::device;

const M: usize = 3;
const N: usize = 40;
const K: usize = 128;

/// A product on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    x: Buffer<bf16>,
    w: Int4Buffers,
    with_zeros: Int4Buffers,
    of_f16: Int4Buffers,
    y: Buffer<bf16>,
    workspace: Buffer<f32>,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        let packed = |dtype, meaning| {
            let how = Quantizer::new(dtype).group(Some(32)).meaning(meaning);
            let w = how.quantize(&[1.0; N * K], N, K).unwrap();
            w.upload(&stream).unwrap()
        };
        Setup {
            x: stream.upload(&[bf16::ONE; M * (K + 4)]).unwrap(),
            w: packed(DType::BF16, Codes::Symmetric),
            with_zeros: packed(DType::BF16, Codes::ZeroPoints),
            of_f16: packed(DType::F16, Codes::Symmetric),
            y: stream.alloc(M * N).unwrap(),
            workspace: stream.alloc(2 * M * N).unwrap(),
            device,
            stream,
        }
    }

    fn problem() -> Int4Problem {
        Self::of(32, Codes::Symmetric)
    }

    fn of(group: usize, meaning: Codes) -> Int4Problem {
        Int4Problem::new(GemmProblem::new(DType::BF16, M, N, K), group, meaning)
    }

    #[expect(clippy::result_large_err, reason = "it is what is looked at")]
    fn result<'s>(
        &'s mut self,
        problem: &Int4Problem,
        change: impl FnOnce(&mut Int4Args<'s>, [&'s Int4Buffers; 2], &'s Buffer<bf16>),
    ) -> Result<(), Int4Error> {
        let plan = Int4Plan::new(&self.device, problem)?;
        let w = match problem.meaning {
            Codes::Symmetric => &self.w,
            _ => &self.with_zeros,
        };
        let mut args = Int4Args {
            workspace: Some(self.workspace.tensor_mut([2 * M * N]).unwrap()),
            ..Int4Args::new(
                self.x.tensor([M, K]).unwrap(),
                w.tensors(),
                self.y.tensor_mut([M, N]).unwrap(),
            )
        };
        change(&mut args, [&self.with_zeros, &self.of_f16], &self.x);
        plan.run(&self.stream, args)
    }

    fn told<'s>(
        &'s mut self,
        change: impl FnOnce(&mut Int4Args<'s>, [&'s Int4Buffers; 2], &'s Buffer<bf16>),
    ) -> String {
        let problem = Self::problem();
        self.result(&problem, change).unwrap_err().to_string()
    }
}

fn refused(problem: Int4Problem) -> Int4Error {
    let refusal = problem.supports().unwrap_err();
    let planned = Int4Plan::new(&device(), &problem).unwrap_err();
    assert_eq!(refusal.to_string(), planned.to_string());
    refusal
}

#[test]
fn nothing_wrong_is_accepted() {
    for meaning in [Codes::Symmetric, Codes::ZeroPoints] {
        let mut setup = Setup::new();
        let problem = Setup::of(32, meaning);
        setup.result(&problem, |_, _, _| {}).unwrap();
        // 1 is exact in both grids: 8/8 and 15/15.
        assert_eq!(setup.y.download().unwrap(), [bf16::from_f32(128.0); M * N]);
    }
}

#[test]
fn unsupported_problems() {
    for group in [0, 8, 48, 100] {
        let problem = Setup::of(group, Codes::Symmetric);
        assert_eq!(
            refused(problem).to_string(),
            format!("groups of {group} rows: expected 16, 32, or a multiple of 64")
        );
    }
    let of = |product: GemmProblem| refused(Int4Problem::new(product, 32, Codes::Symmetric));
    let product = || Setup::problem().product;
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
        Int4Error::Product(GemmError::NotGated)
    ));
    assert_eq!(
        of(product().tile(Some([16, 256]))).to_string(),
        "no GEMM kernel with tile [16, 256] for these operands: there are [[128, 256], [16, 64], [64, 256], [8, 64]]"
    );
}

#[test]
fn zero_points_where_there_should_be_none() {
    let mut setup = Setup::new();
    let told = setup.told(|args, [with_zeros, _], _| args.w = with_zeros.tensors());
    assert_eq!(
        told,
        "w zeros: the plan has no zero points, the call has some"
    );
    let problem = Setup::of(32, Codes::ZeroPoints);
    let refusal = setup.result(&problem, |args, _, _| args.w.zeros = None);
    assert!(matches!(
        refusal,
        Err(Int4Error::Zeros {
            tensor: "w zeros",
            expected: true,
            got: false
        })
    ));
}

#[test]
fn weights_whose_rows_are_in_another_order() {
    let mut setup = Setup::new();
    let told = setup.told(|args, _, _| args.w.ordered = true);
    assert_eq!(
        told,
        "w codes: the plan says that x is not in the weights' order, and the weights have one; see Int4Weight::order"
    );
    let refusal = setup.result(&Setup::problem().ordered(true), |_, _, _| ());
    assert!(matches!(
        refusal,
        Err(Int4Error::Order {
            tensor: "w codes",
            expected: true,
            got: false
        })
    ));
}

#[test]
fn weights_of_another_shape_or_type() {
    let mut setup = Setup::new();
    let told = setup.told(|args, [_, of_f16], _| args.w = of_f16.tensors());
    assert_eq!(told, "w scales: expected elements of type bf16, got f16");
    let told = setup.told(|args, _, _| args.w.codes = args.w.codes.narrow(0, 0..500).unwrap());
    assert_eq!(told, "w codes: expected shape [1024], got [500]");
    let told = setup.told(|args, _, _| args.w.scales = args.w.scales.narrow(0, 1..256).unwrap());
    assert_eq!(told, "w scales: expected shape [256], got [255]");
    let problem = Setup::of(32, Codes::ZeroPoints);
    let refusal = setup.result(&problem, |args, _, _| args.w.zeros = Some(args.w.codes));
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "w zeros: expected shape [32], got [1024]"
    );
}

#[test]
fn what_any_product_is_refused_for() {
    let mut setup = Setup::new();
    let told = setup.told(|args, [with_zeros, _], _| args.w_up = Some(with_zeros.tensors()));
    assert_eq!(told, "w_up: the plan is not gated, the call has up weights");
    let told = setup.told(|args, _, x| {
        args.x = x.region().strided(0, [M, K], [K as i64 + 4, 1]).unwrap();
    });
    assert!(told.starts_with("x:"), "{told}");
    let split = Int4Problem::new(
        Setup::problem().product.splits(Some(2)),
        32,
        Codes::Symmetric,
    );
    let refusal = setup.result(&split, |args, _, _| args.workspace = None);
    assert!(matches!(
        refusal,
        Err(Int4Error::Product(GemmError::Workspace {
            expected: 240,
            got: 0
        }))
    ));
    let small = Int4Problem::new(GemmProblem::new(DType::BF16, 2, N, K), 32, Codes::Symmetric);
    let refusal = setup.result(&small, |_, _, _| {});
    assert!(matches!(
        refusal,
        Err(Int4Error::Product(GemmError::Rows {
            expected: 2,
            got: 3
        }))
    ));
    let other = device();
    let elsewhere = other.stream().upload(&[bf16::ONE; M * K]).unwrap();
    let plan = Int4Plan::new(&setup.device, &Setup::problem()).unwrap();
    let args = Int4Args::new(
        elsewhere.tensor([M, K]).unwrap(),
        setup.w.tensors(),
        setup.y.tensor_mut([M, N]).unwrap(),
    );
    assert!(matches!(
        plan.run(&setup.stream, args),
        Err(Int4Error::Operand(OperandError::Device { tensor: "x", .. }))
    ));
}
