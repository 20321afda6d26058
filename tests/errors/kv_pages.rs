//! What copies, gathers, merges and appends of latents can be refused for.

use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::merge::{MergeArgs, MergeError, MergePlan, MergeProblem, State};
use infer_kernels::attention::prefill::PageTable;
use infer_kernels::kv::{
    Cache, CopyArgs, CopyPlan, Format, GatherArgs, GatherPlan, GatherProblem, KvError,
    MlaAppendArgs, MlaAppendPlan, MlaAppendProblem, MlaCacheMut, Pages, Queries,
};
use infer_kernels::{Buffer, DType, OperandError, StatusWord, Stream};

use crate::common::{device, shared_device};

fn stream() -> Stream {
    shared_device().stream()
}

fn alloc(elements: usize) -> Buffer<bf16> {
    stream().alloc(elements).unwrap()
}

/// Why pages of 4 elements are not copied.
fn copy(pages: Pages<'_>, pairs: &Buffer<i32>, shape: [usize; 2]) -> KvError {
    let status = StatusWord::new(&stream()).unwrap();
    let args = CopyArgs {
        pages,
        pairs: pairs.tensor(shape).unwrap(),
        status: &status,
    };
    let plan = CopyPlan::new(shared_device()).unwrap();
    plan.run(&stream(), args).unwrap_err()
}

#[test]
fn copies() {
    let pairs = stream().alloc::<i32>(12).unwrap();
    let (source, mut first, mut second) = (alloc(32), alloc(32), alloc(48));
    let mut many: Vec<_> = (0..33).map(|_| alloc(8)).collect();
    let pages = Pages::Within(
        many.iter_mut()
            .map(|b| b.tensor_mut([2, 4]).unwrap())
            .collect(),
    );
    assert_eq!(
        copy(pages, &pairs, [1, 2]).to_string(),
        "caches: expected at most 32, got 33"
    );
    let pages = Pages::Within(vec![
        first.tensor_mut([8, 4]).unwrap(),
        second.tensor_mut([9, 4]).unwrap(),
    ]);
    assert_eq!(
        copy(pages, &pairs, [1, 2]).to_string(),
        "source pages: expected shape [8, 4], got [9, 4]"
    );
    let padded = second.region_mut().strided(0, [8, 4], [6, 1]).unwrap();
    let pages = Pages::Within(vec![first.tensor_mut([8, 4]).unwrap(), padded]);
    assert_eq!(
        copy(pages, &pairs, [1, 2]).to_string(),
        "pages: expected strides of [8, 8] bytes as the first caches have, got [12, 12]"
    );
    let pages = Pages::Within(vec![first.tensor_mut([8, 4]).unwrap()]);
    assert_eq!(
        copy(pages, &pairs, [4, 3]).to_string(),
        "pairs: expected shape [4, 2], got [4, 3]"
    );
    let elsewhere = device();
    let mut foreign = elsewhere.stream().alloc::<bf16>(32).unwrap();
    let to = foreign.tensor_mut([8, 4]).unwrap();
    let pages = Pages::Between(vec![(source.tensor([8, 4]).unwrap(), to)]);
    assert!(matches!(
        copy(pages, &pairs, [1, 2]),
        KvError::Operand(OperandError::Device {
            tensor: "target pages",
            ..
        })
    ));
}

#[test]
fn swaps() {
    let (plan, cache) = (CopyPlan::new(shared_device()).unwrap(), alloc(32));
    let tensor = cache.tensor([8, 4]).unwrap();
    let mut host = [bf16::ZERO; 8];
    let error = plan
        .to_host(&stream(), tensor, &[1, 8], &mut host)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "page: expected less than 8, the pages of the cache, got 8"
    );
    let error = plan
        .to_host(&stream(), tensor, &[1, 2, 3], &mut host)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "host memory: expected 12 elements, as the pages have, got 8"
    );
    let mut host = [0i32; 8];
    let error = plan
        .to_host(&stream(), tensor, &[1, 2], &mut host)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "target pages: expected elements of type bf16, got i32"
    );
}

#[test]
fn gathers() {
    let problem = GatherProblem::new(DType::BF16, 2, 8);
    assert!(matches!(
        GatherProblem::new(DType::F32, 2, 8).supports().unwrap_err(),
        KvError::UnsupportedDtype {
            kernel: "kv_gather",
            ..
        }
    ));
    assert!(matches!(
        problem.clone().v_dim(12).supports().unwrap_err(),
        KvError::UnsupportedDim {
            what: "head dim of values",
            ..
        }
    ));
    let cache = alloc(4 * 2 * 2 * 8);
    let table = stream().alloc::<u32>(8).unwrap();
    let lens = SeqLens::from_lengths(&stream(), &[2, 3]).unwrap();
    let status = StatusWord::new(&stream()).unwrap();
    let refusal = |problem: &GatherProblem, pages: PageTable<'_>, rows: usize| {
        let plan = GatherPlan::new(shared_device(), problem).unwrap();
        let (mut k, mut v) = (alloc(rows * 16), alloc(5 * 16));
        let tensor = cache.tensor([4, 2, 2, 8]).unwrap();
        let args = GatherArgs {
            cache: Cache::Rows {
                k: tensor,
                v: tensor,
            },
            pages,
            seqlens: (&lens).into(),
            k: k.tensor_mut([rows, 2, 8]).unwrap(),
            v: v.tensor_mut([5, 2, 8]).unwrap(),
            scales: None,
            status: &status,
        };
        plan.run(&stream(), args).unwrap_err().to_string()
    };
    let good = PageTable::Rows(table.tensor([2, 2]).unwrap());
    assert_eq!(
        refusal(&problem, good, 6),
        "v: expected shape [6, 2, 8], got [5, 2, 8]"
    );
    assert_eq!(
        refusal(&problem, PageTable::Rows(table.tensor([3, 2]).unwrap()), 5),
        "page table: expected 2 sequences as the offsets say, got 3"
    );
    let csr = PageTable::Csr {
        indptr: table.tensor([2]).unwrap(),
        pages: table.tensor([8]).unwrap(),
    };
    assert_eq!(
        refusal(&problem, csr, 5),
        "indptr: expected 2 sequences as the offsets say, got 1"
    );
    assert_eq!(
        refusal(&problem.clone().format(Format::E5m2), good, 5),
        "k: expected elements of type [U8], got bf16"
    );
}

#[test]
fn latents() {
    let problem = MlaAppendProblem::new(DType::BF16, 64, 16);
    for (latent, rope, what) in [(60, 16, "latent dim"), (64, 264, "rope dim")] {
        let error = MlaAppendProblem::new(DType::BF16, latent, rope).supports();
        assert!(error.unwrap_err().to_string().starts_with(what));
    }
    let plan = MlaAppendPlan::new(shared_device(), &problem).unwrap();
    let (rows, mut cache) = (alloc(3 * 80), alloc(4 * 2 * 80));
    let slots = stream().alloc::<i32>(3).unwrap();
    let status = StatusWord::new(&stream()).unwrap();
    let args = MlaAppendArgs {
        latent: rows.tensor([3, 64]).unwrap(),
        rope: rows.tensor([3, 16]).unwrap(),
        cache: MlaCacheMut::Joined(cache.tensor_mut([4, 2, 72]).unwrap()),
        slots: slots.tensor([3]).unwrap(),
        queries: Queries::None,
        rotation: None,
        scales: None,
        status: &status,
    };
    assert_eq!(
        plan.run(&stream(), args).unwrap_err().to_string(),
        "cache: expected shape [4, 2, 80], got [4, 2, 72]"
    );
}

#[test]
fn merges() {
    let problem = MergeProblem::new(DType::BF16, 2, 8);
    assert_eq!(
        MergeProblem::new(DType::I32, 2, 8)
            .supports()
            .unwrap_err()
            .to_string(),
        "states: expected f16, bf16 or f32, got i32"
    );
    assert_eq!(
        problem
            .clone()
            .out(DType::U8)
            .supports()
            .unwrap_err()
            .to_string(),
        "out: expected f16, bf16 or f32, got u8"
    );
    for dim in [0, 12, 4104] {
        assert_eq!(
            MergeProblem::new(DType::BF16, 2, dim)
                .supports()
                .unwrap_err()
                .to_string(),
            format!("head dim: expected a multiple of 8 from 8 to 4096, got {dim}")
        );
    }
    let plan = MergePlan::new(shared_device(), &problem).unwrap();
    let (rows, mut out) = (alloc(3 * 16), alloc(3 * 16));
    let mut lses = stream().alloc::<f32>(8).unwrap();
    let lse_region = lses.tensor([2, 3]).unwrap().address();
    // SAFETY: Nothing is launched: the calls are refused.
    let lse = || unsafe {
        infer_kernels::Region::from_raw_parts(lse_region, 8, DType::F32, shared_device())
    };
    let state = State {
        out: rows.tensor([3, 2, 8]).unwrap(),
        lse: lse().tensor([2, 3]).unwrap(),
    };
    let mut refusal = |states: &[State<'_>], own: bool| {
        let args = MergeArgs {
            states,
            out: out.tensor_mut([3, 2, 8]).unwrap(),
            lse: own.then(|| lses.tensor_mut([2, 3]).unwrap()),
        };
        plan.run(&stream(), args).unwrap_err()
    };
    assert!(matches!(
        refusal(&[state; 17], false),
        MergeError::Limit {
            what: "states",
            expected: 16,
            got: 17
        }
    ));
    let other = State {
        lse: lse().tensor([3, 2]).unwrap(),
        ..state
    };
    assert_eq!(
        refusal(&[state, other], false).to_string(),
        "lse of a state: expected shape [2, 3], got [3, 2]"
    );
    assert!(matches!(
        refusal(&[state], true),
        MergeError::Operand(OperandError::Overlap {
            tensor: "lse",
            other: "lse of a state",
            ..
        })
    ));
}
