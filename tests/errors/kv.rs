//! What an operation on a cache can be refused for.

use half::bf16;
use infer_kernels::kv::{
    AppendArgs, AppendPlan, AppendProblem, CacheMut, Format, KvError, Norm, Pairing, Queries,
    RotateArgs, RotatePlan, RotateProblem, Rotation, Scales, Weights,
};
use infer_kernels::ptx_emulator::{Config, Gpu};
use infer_kernels::{Buffer, DType, Device, DeviceError, OperandError, StatusWord, Stream};

use crate::common::device;

const TOKENS: usize = 3;
const HEADS: usize = 2;
const DIM: usize = 32;
const PAGES: usize = 4;
const PAGE: usize = 8;

/// An append on which one thing at a time is made wrong.
struct Setup {
    device: Device,
    stream: Stream,
    rows: Buffer<bf16>,
    out: Buffer<bf16>,
    cache: [Buffer<bf16>; 2],
    bytes: [Buffer<u8>; 2],
    slots: Buffer<i64>,
    positions: Buffer<i32>,
    numbers: Buffer<f32>,
    status: StatusWord,
}

/// What a change may put into the operands.
struct Spare<'s> {
    device: Device,
    rows: &'s Buffer<bf16>,
    out: &'s mut Buffer<bf16>,
    bytes: &'s mut [Buffer<u8>; 2],
    positions: &'s Buffer<i32>,
    numbers: &'s Buffer<f32>,
}

impl Setup {
    fn new() -> Setup {
        let device = device();
        let stream = device.stream();
        let alloc = || {
            stream
                .alloc::<bf16>(2 * PAGES * PAGE * HEADS * DIM)
                .unwrap()
        };
        let bytes = || stream.alloc::<u8>(2 * PAGES * PAGE * HEADS * DIM).unwrap();
        Setup {
            rows: alloc(),
            out: alloc(),
            cache: [alloc(), alloc()],
            bytes: [bytes(), bytes()],
            slots: stream.upload(&[0; 2 * TOKENS]).unwrap(),
            positions: stream.alloc(2 * TOKENS).unwrap(),
            numbers: stream.alloc(100 * DIM).unwrap(),
            status: StatusWord::new(&stream).unwrap(),
            device,
            stream,
        }
    }

    fn problem() -> AppendProblem {
        AppendProblem::new(DType::BF16, HEADS, DIM)
    }

    fn refusal<'s>(
        &'s mut self,
        problem: &AppendProblem,
        change: impl FnOnce(&mut AppendArgs<'s>, Spare<'s>),
    ) -> KvError {
        let plan = AppendPlan::new(&self.device, problem).unwrap();
        let [k, v] = &mut self.cache;
        let shape = [PAGES, PAGE, HEADS, DIM];
        let cache = CacheMut::Rows {
            k: k.tensor_mut(shape).unwrap(),
            v: v.tensor_mut(shape).unwrap(),
        };
        let rows = self.rows.tensor([TOKENS, HEADS, DIM]).unwrap();
        let slots = self.slots.tensor([TOKENS]).unwrap();
        let mut args = AppendArgs::new(rows, rows, cache, slots, &self.status);
        change(
            &mut args,
            Spare {
                device: self.device.clone(),
                rows: &self.rows,
                out: &mut self.out,
                bytes: &mut self.bytes,
                positions: &self.positions,
                numbers: &self.numbers,
            },
        );
        plan.run(&self.stream, args).unwrap_err()
    }
}

fn refused(problem: AppendProblem) -> KvError {
    let error = problem.supports().unwrap_err();
    let planned = AppendPlan::new(&device(), &problem).unwrap_err();
    assert_eq!(error.to_string(), planned.to_string());
    error
}

#[test]
fn problems_without_a_kernel() {
    assert_eq!(
        refused(AppendProblem::new(DType::F32, HEADS, DIM)).to_string(),
        "no kv_append kernel for elements of type f32: there are [\"bf16\", \"f16\"]"
    );
    for dim in [0, 12, 264] {
        assert_eq!(
            refused(AppendProblem::new(DType::BF16, HEADS, dim)).to_string(),
            format!("head dim: expected a multiple of 8 from 8 to 256, got {dim}")
        );
    }
    assert!(matches!(
        refused(Setup::problem().v_dim(257)),
        KvError::UnsupportedDim {
            what: "head dim of values",
            expected: 256,
            got: 257
        }
    ));
    assert_eq!(
        refused(AppendProblem::new(DType::BF16, 0, DIM)).to_string(),
        "heads: expected at least 1, got 0"
    );
    assert_eq!(
        refused(Setup::problem().query_heads(1 << 16)).to_string(),
        "query heads: expected at most 65535, got 65536"
    );
    for dim in [0, 5, 34] {
        assert_eq!(
            refused(Setup::problem().rope(Pairing::Halves, dim)).to_string(),
            format!("rotary dim: expected an even number from 2 to 32, got {dim}")
        );
    }
    for eps in [-1.0, f32::NAN, f32::INFINITY] {
        let norm = Norm {
            eps,
            plus_one: false,
        };
        assert!(matches!(
            refused(Setup::problem().norm(norm)),
            KvError::Eps { .. }
        ));
    }
}

#[test]
fn options_and_their_operands() {
    let rotated = Setup::problem().rope(Pairing::Halves, DIM);
    assert_eq!(
        Setup::new().refusal(&rotated, |_, _| ()).to_string(),
        "rotation: the plan uses it, the call has none"
    );
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        let table = spare.numbers.tensor([100, DIM / 2]).unwrap();
        args.rotation = Some(Rotation {
            positions: spare.positions.tensor([TOKENS]).unwrap(),
            cosines: table,
            sines: table,
        });
    });
    assert_eq!(
        error.to_string(),
        "rotation: the plan does not use it, the call has a tensor for it"
    );
    let queries = Setup::problem().query_heads(4);
    let error = Setup::new().refusal(&queries, |_, _| ());
    assert!(matches!(
        error,
        KvError::Option {
            tensor: "queries",
            ..
        }
    ));
    let norm = Norm {
        eps: 1e-6,
        plus_one: false,
    };
    let error = Setup::new().refusal(&Setup::problem().norm(norm), |_, _| ());
    assert!(matches!(
        error,
        KvError::Option {
            tensor: "weights",
            ..
        }
    ));
    let error = Setup::new().refusal(&Setup::problem().norm(norm), |args, spare| {
        let weights = spare.numbers.tensor([DIM]).unwrap();
        args.weights = Some(Weights {
            k: weights,
            q: Some(weights),
        });
    });
    assert!(matches!(
        error,
        KvError::Option {
            tensor: "weights of queries",
            ..
        }
    ));
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        let scales = spare.numbers.tensor([1]).unwrap();
        args.scales = Some(Scales {
            k: scales,
            v: scales,
        });
    });
    assert!(matches!(
        error,
        KvError::Option {
            tensor: "scales",
            expected: false,
            ..
        }
    ));
}

#[test]
fn caches_of_another_format() {
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        let [k, v] = spare.bytes;
        let shape = [PAGES, PAGE, HEADS, DIM];
        args.cache = CacheMut::Rows {
            k: k.tensor_mut(shape).unwrap(),
            v: v.tensor_mut(shape).unwrap(),
        };
    });
    assert_eq!(
        error.to_string(),
        "k: expected elements of type [BF16], got u8"
    );
    let quantised = Setup::problem().format(Format::Int8);
    let error = Setup::new().refusal(&quantised, |_, _| ());
    assert_eq!(
        error.to_string(),
        "k: expected elements of type [I8, U8], got bf16"
    );
    let error = Setup::new().refusal(&quantised, |args, spare| {
        let [k, v] = spare.bytes;
        let shape = [PAGES, PAGE, HEADS, DIM];
        args.cache = CacheMut::Rows {
            k: k.tensor_mut(shape).unwrap(),
            v: v.tensor_mut(shape).unwrap(),
        };
        let scales = spare.numbers.tensor([3]).unwrap();
        args.scales = Some(Scales {
            k: scales,
            v: scales,
        });
    });
    assert_eq!(
        error.to_string(),
        "k scales: expected 1 scale or 2, one for each head, got 3"
    );
    let uneven = AppendProblem::new(DType::BF16, HEADS, 24).format(Format::E4m3);
    let error = Setup::new().refusal(&uneven, |args, spare| {
        let [k, v] = spare.bytes;
        args.k = spare.rows.tensor([TOKENS, HEADS, 24]).unwrap();
        args.v = args.k;
        args.cache = CacheMut::SplitX {
            k: k.tensor_mut([PAGES, HEADS, 1, PAGE, 16]).unwrap(),
            v: v.tensor_mut([PAGES, HEADS, 24, PAGE]).unwrap(),
        };
    });
    assert_eq!(
        error.to_string(),
        "k: expected heads of whole groups of 16 elements, got 24"
    );
}

#[test]
fn operands() {
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.v = spare.rows.tensor([TOKENS + 1, HEADS, DIM]).unwrap();
    });
    assert_eq!(
        error.to_string(),
        "v: expected shape [3, 2, 32], got [4, 2, 32]"
    );
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        args.slots = spare.numbers.tensor([TOKENS]).unwrap();
    });
    assert_eq!(
        error.to_string(),
        "slots: expected elements of type i32, got f32"
    );
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        let strides = [(HEADS * DIM + 1) as i64, DIM as i64, 1];
        args.k = spare
            .rows
            .region()
            .strided(0, [TOKENS, HEADS, DIM], strides)
            .unwrap();
    });
    assert!(matches!(
        error,
        KvError::Operand(OperandError::RowAlignment {
            tensor: "k",
            expected: 72,
            got: 65,
            ..
        })
    ));
    let rotated = Setup::problem().rope(Pairing::Halves, DIM);
    let error = Setup::new().refusal(&rotated, |args, spare| {
        args.rotation = Some(Rotation {
            positions: spare.positions.tensor([TOKENS]).unwrap(),
            cosines: spare.numbers.tensor([100, DIM / 2]).unwrap(),
            sines: spare.numbers.tensor([99, DIM / 2]).unwrap(),
        });
    });
    assert_eq!(
        error.to_string(),
        "sines: expected shape [100, 16], got [99, 16]"
    );
    let norm = Norm {
        eps: 1e-6,
        plus_one: false,
    };
    let error = Setup::new().refusal(&Setup::problem().norm(norm), |args, spare| {
        args.weights = Some(Weights {
            k: spare.numbers.tensor([DIM + 1]).unwrap(),
            q: None,
        });
    });
    assert_eq!(
        error.to_string(),
        "weights of keys: expected shape [32], got [33]"
    );
}

#[test]
fn what_is_written_keeps_apart() {
    let queries = Setup::problem().query_heads(HEADS);
    let error = Setup::new().refusal(&queries, |args, spare| {
        let shape = [TOKENS, HEADS, DIM];
        // The same memory twice, as only a promise about pointers can give it.
        let region = spare.out.region();
        // SAFETY: Nothing is launched: the call is refused.
        let again = unsafe {
            infer_kernels::RegionMut::from_raw_parts(
                region.tensor([0]).unwrap().address(),
                region.len(),
                DType::BF16,
                &spare.device,
            )
        };
        args.k = spare.out.tensor(shape).unwrap();
        args.queries = Queries::InPlace(again.tensor(shape).unwrap());
    });
    assert!(matches!(
        error,
        KvError::Operand(OperandError::Overlap {
            tensor: "queries",
            other: "k",
            ..
        })
    ));
    let error = Setup::new().refusal(&Setup::problem(), |args, spare| {
        let shape = [PAGES, PAGE, HEADS, DIM];
        let address = spare.out.tensor([0]).unwrap().address();
        // SAFETY: The same.
        let cache = || unsafe {
            let len = spare.rows.len() as u64;
            infer_kernels::RegionMut::from_raw_parts(address, len, DType::BF16, &spare.device)
        };
        args.cache = CacheMut::Rows {
            k: cache().tensor(shape).unwrap(),
            v: cache().tensor(shape).unwrap(),
        };
    });
    assert!(matches!(
        error,
        KvError::Operand(OperandError::Overlap {
            tensor: "v cache",
            other: "k cache",
            ..
        })
    ));
}

#[test]
fn other_devices() {
    let elsewhere = device();
    let setup = Setup::new();
    let plan = AppendPlan::new(&elsewhere, &Setup::problem()).unwrap();
    let mut spare = Setup::new();
    let [k, v] = &mut spare.cache;
    let shape = [PAGES, PAGE, HEADS, DIM];
    let cache = CacheMut::Rows {
        k: k.tensor_mut(shape).unwrap(),
        v: v.tensor_mut(shape).unwrap(),
    };
    let rows = setup.rows.tensor([TOKENS, HEADS, DIM]).unwrap();
    let slots = setup.slots.tensor([TOKENS]).unwrap();
    let args = AppendArgs::new(rows, rows, cache, slots, &setup.status);
    assert!(matches!(
        plan.run(&setup.stream, args).unwrap_err(),
        KvError::Operand(OperandError::Device {
            tensor: "stream",
            ..
        })
    ));
    let old = Device::emulator(Config {
        gpu: Gpu::T4,
        ..Config::default()
    });
    assert!(matches!(
        AppendPlan::new(&old, &Setup::problem()).unwrap_err(),
        KvError::Device(DeviceError::Unfit { .. })
    ));
}

/// Why a rotation of queries and keys in place is refused.
fn rotation_refused(change: impl Fn(&mut RotateArgs<'_>)) -> KvError {
    let setup = Setup::new();
    let problem = RotateProblem::new(DType::BF16, HEADS, DIM, Pairing::Halves).query_heads(HEADS);
    let plan = RotatePlan::new(&setup.device, &problem).unwrap();
    let (mut q, mut k) = (
        setup.stream.alloc::<bf16>(TOKENS * HEADS * DIM).unwrap(),
        setup.stream.alloc::<bf16>(TOKENS * HEADS * DIM).unwrap(),
    );
    let shape = [TOKENS, HEADS, DIM];
    let table = setup.numbers.tensor([6, DIM / 2]).unwrap();
    let rotation = Rotation {
        positions: setup.positions.tensor([TOKENS]).unwrap(),
        cosines: table,
        sines: table,
    };
    let keys = Queries::InPlace(k.tensor_mut(shape).unwrap());
    let mut args = RotateArgs::new(keys, rotation, &setup.status)
        .queries(Queries::InPlace(q.tensor_mut(shape).unwrap()));
    change(&mut args);
    plan.run(&setup.stream, args).unwrap_err()
}

#[test]
fn rotations_without_a_cache() {
    let problem = RotateProblem::new(DType::BF16, HEADS, DIM, Pairing::Halves);
    for (problem, text) in [
        (
            problem.clone().rotary_dim(DIM + 2),
            "rotary dim: expected an even number from 2 to 32, got 34",
        ),
        (
            RotateProblem::new(DType::BF16, 0, DIM, Pairing::Halves),
            "heads: expected at least 1, got 0",
        ),
        (
            problem.norm(Norm {
                eps: -1.0,
                plus_one: false,
            }),
            "eps of the norm: expected a finite number, not negative, got -1",
        ),
    ] {
        assert_eq!(problem.supports().unwrap_err().to_string(), text);
    }
    let error = rotation_refused(|args| args.queries = Queries::None);
    assert_eq!(
        error.to_string(),
        "queries: the plan uses it, the call has none"
    );
    let error = rotation_refused(|args| args.keys = Queries::None);
    assert_eq!(
        error.to_string(),
        "keys: the plan uses it, the call has none"
    );
    let error = rotation_refused(|args| {
        let k = args.rotation.cosines.narrow(0, 0..1).unwrap();
        let k = k.select(0, 0).unwrap();
        args.weights = Some(Weights { k, q: Some(k) });
    });
    assert_eq!(
        error.to_string(),
        "weights: the plan does not use it, the call has a tensor for it"
    );
    let error = rotation_refused(|args| {
        args.rotation.positions = args.rotation.positions.narrow(0, 0..1).unwrap();
    });
    assert_eq!(error.to_string(), "positions: expected shape [3], got [1]");
}
