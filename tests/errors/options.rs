//! What the operands of options and pages can be refused for.

use half::bf16;
use infer_kernels::attention::prefill::{
    Kv, KvLayout, Mask, PageTable, PrefillArgs, PrefillError, PrefillProblem, SoftCap,
};
use infer_kernels::{DType, OperandError, Region, Tensor, TensorMut};

use crate::setup::{HEADS, PAGE, ROWS, Setup, over, paged, ragged};

fn everything(problem: PrefillProblem) -> PrefillProblem {
    let problem = problem.paged(PAGE).alibi(true).sinks(true).mask(true);
    problem.lse(true)
}

#[test]
fn nothing_wrong_is_accepted() {
    let mut setup = Setup::with(everything);
    setup.run(|_| ()).unwrap();
    assert!(setup.status.read().unwrap().is_clean());
    let mut setup = Setup::with(|problem| problem.paged(PAGE));
    setup.run(|_| ()).unwrap();
    assert!(setup.status.read().unwrap().is_clean());
}

#[test]
fn operands_of_options_are_given_exactly_if_planned() {
    type Change = for<'a> fn(&mut PrefillArgs<'a>);
    let missing: [(&str, Change); 3] = [
        ("alibi", |args| args.alibi = None),
        ("sinks", |args| args.sinks = None),
        ("mask", |args| args.mask = None),
    ];
    for (name, change) in missing {
        let error = Setup::with(everything).run(change).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{name}: the plan uses it, the call has none")
        );
        assert!(matches!(
            error,
            PrefillError::Option {
                expected: true,
                got: false,
                ..
            }
        ));
    }
    let mut setup = Setup::new(false);
    let (values, _) = over(&setup.device, &setup.per_head, 0, [HEADS.query], [1]);
    let (bits, _) = over(&setup.device, &setup.bits, 0, [4], [1]);
    let (offsets, _) = over(&setup.device, &setup.bit_offsets, 0, [3], [1]);
    let not_planned = "the plan does not use it, the call has a tensor for it";
    let error = setup.run(|args| args.alibi = Some(values)).unwrap_err();
    assert_eq!(error.to_string(), format!("alibi: {not_planned}"));
    let error = setup.run(|args| args.sinks = Some(values)).unwrap_err();
    assert_eq!(error.to_string(), format!("sinks: {not_planned}"));
    let mask = Mask { bits, offsets };
    let error = setup.run(|args| args.mask = Some(mask)).unwrap_err();
    assert_eq!(error.to_string(), format!("mask: {not_planned}"));
}

#[test]
fn keys_of_another_form_than_planned() {
    let mut setup = Setup::with(|problem| problem.paged(PAGE));
    let shape = [ROWS, HEADS.kv, HEADS.dim];
    let (rows, _) = over(&setup.device, &setup.kv, 0, shape, [128, 64, 1]);
    let error = setup
        .run(|args| {
            let (k, v) = (rows, rows);
            let seqlens = args.seqlens_q;
            args.kv = Kv::Ragged { k, v, seqlens };
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "kv: planned pages of 3 keys, got ragged keys"
    );
    let expected = KvLayout::Paged { page_size: PAGE };
    assert!(matches!(error, PrefillError::KvLayout { expected: e, .. } if e == expected));

    let mut pages = Setup::with(|problem| problem.paged(PAGE));
    let mut ragged = Setup::new(false);
    let (pool, _) = over(
        &ragged.device,
        &ragged.kv,
        0,
        [2, 3, 2, 64],
        [384, 128, 64, 1],
    );
    let (table, _) = over(&ragged.device, &ragged.table, 0, [2, 2], [2, 1]);
    let (seqlens, _) = over(&ragged.device, &ragged.seqlens, 0, [2], [1]);
    let kv = Kv::Paged {
        k: pool,
        v: pool,
        pages: PageTable::Rows(table),
        seqlens,
    };
    let error = ragged.run(|args| args.kv = kv).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kv: planned ragged keys, got pages of keys"
    );

    // Pages of another size than the table was planned for.
    let (pool, _) = over(
        &pages.device,
        &pages.kv,
        0,
        [2, 4, 2, 64],
        [512, 128, 64, 1],
    );
    let error = pages.operand(|args| *paged(args).k = pool);
    assert_eq!(
        error.to_string(),
        "k: expected shape [2, 3, 2, 64], got [2, 4, 2, 64]"
    );
}

/// The operand error of a paged run with everything.
fn refused(change: impl for<'s> FnOnce(&Setup, &mut PrefillArgs<'s>)) -> OperandError {
    let mut setup = Setup::with(everything);
    let other = Setup::with(everything);
    // What the change takes from `other` is of another device: it names shapes and types only.
    let error = setup.run(|args| change(&other, args)).unwrap_err();
    match error {
        PrefillError::Operand(error) => error,
        other => panic!("expected an operand error, got {other:?}"),
    }
}

#[test]
fn shapes_of_pages_tables_and_options() {
    let text = |change: for<'s> fn(&Setup, &mut PrefillArgs<'s>)| refused(change).to_string();
    assert_eq!(
        text(|_, args| *paged(args).v = paged(args).v.narrow(0, 0..3).unwrap()),
        "v: expected shape [4, 3, 2, 64], got [3, 3, 2, 64]"
    );
    assert_eq!(
        text(|_, args| *paged(args).seqlens = paged(args).seqlens.narrow(0, 0..1).unwrap()),
        "seqlens_k: expected shape [2], got [1]"
    );
    assert_eq!(
        text(|setup, args| {
            let (table, _) = over(&setup.device, &setup.table, 0, [1, 2], [2, 1]);
            *paged(args).pages = PageTable::Rows(table);
        }),
        "page table: expected shape [2, 2], got [1, 2]"
    );
    assert_eq!(
        text(|_, args| args.alibi = Some(args.alibi.unwrap().narrow(0, 0..3).unwrap())),
        "alibi: expected shape [4], got [3]"
    );
    assert_eq!(
        text(|_, args| args.sinks = Some(args.sinks.unwrap().narrow(0, 0..1).unwrap())),
        "sinks: expected shape [4], got [1]"
    );
    assert_eq!(
        text(|_, args| {
            let mask = args.mask.as_mut().unwrap();
            mask.offsets = mask.offsets.narrow(0, 0..2).unwrap();
        }),
        "mask offsets: expected shape [3], got [2]"
    );
}

#[test]
fn types_of_tables_and_options() {
    let mut setup = Setup::with(everything);
    let floats = over(&setup.device, &setup.lse, 0, [2, 2], [2, 1]).0;
    let error = setup.operand(|args| *paged(args).pages = PageTable::Rows(floats));
    assert_eq!(
        error.to_string(),
        "page table: expected elements of type i32, got f32"
    );
    let vector = over(&setup.device, &setup.lse, 0, [2], [1]).0;
    let error = setup.operand(|args| *paged(args).seqlens = vector);
    assert_eq!(
        error.to_string(),
        "seqlens_k: expected elements of type i32, got f32"
    );
    let halves = over(&setup.device, &setup.q, 0, [HEADS.query], [1]).0;
    for name in ["alibi", "sinks"] {
        let error = setup.operand(|args| match name {
            "alibi" => args.alibi = Some(halves),
            _ => args.sinks = Some(halves),
        });
        assert_eq!(
            error.to_string(),
            format!("{name}: expected elements of type f32, got bf16")
        );
    }
    let words = over(&setup.device, &setup.table, 0, [4], [1]).0;
    let error = setup.operand(|args| args.mask.as_mut().unwrap().bits = words);
    assert_eq!(
        error.to_string(),
        "mask bits: expected elements of type u8, got u32"
    );
    // Tables and lengths of either kind of integer.
    let offsets = over(&setup.device, &setup.table, 0, [3], [1]).0;
    setup
        .run(|args| args.mask.as_mut().unwrap().offsets = offsets)
        .unwrap();
}

#[test]
fn a_list_of_pages_has_bounds_for_each_sequence() {
    let mut setup = Setup::with(everything);
    let pages = over(&setup.device, &setup.table, 0, [4], [1]).0;
    let bounds = setup.stream.upload(&[0i32, 2, 4]).unwrap();
    let indptr = over(&setup.device, &bounds, 0, [3], [1]).0;
    setup
        .run(|args| *paged(args).pages = PageTable::Csr { indptr, pages })
        .unwrap();
    assert!(setup.status.read().unwrap().is_clean());
    let indptr = indptr.narrow(0, 0..2).unwrap();
    let error = setup.operand(|args| *paged(args).pages = PageTable::Csr { indptr, pages });
    assert_eq!(error.to_string(), "indptr: expected shape [3], got [2]");
}

#[test]
fn strides_of_pages() {
    let mut setup = Setup::with(everything);
    let (pool, _) = over(
        &setup.device,
        &setup.kv,
        0,
        [3, 3, 2, 64],
        [388, 128, 64, 1],
    );
    let error = setup.operand(|args| *paged(args).k = pool);
    assert_eq!(
        error.to_string(),
        "k: stride 388 along axis 0 is not a multiple of 16 bytes; pad it to 392 elements"
    );
    let (pool, _) = over(
        &setup.device,
        &setup.kv,
        4,
        [2, 3, 2, 64],
        [384, 128, 64, 1],
    );
    let address = pool.address();
    let error = setup.operand(|args| (*paged(args).k, *paged(args).v) = (pool, pool));
    let text = format!("k: address {address:#x} is not a multiple of 16 bytes");
    assert_eq!(error.to_string(), text);
    // The same memory by head instead of by row.
    let (heads_first, _) = over(
        &setup.device,
        &setup.kv,
        0,
        [2, 2, 3, 64],
        [384, 192, 64, 1],
    );
    let pool = heads_first.permute([0, 2, 1, 3]).unwrap();
    let ids = setup.stream.upload(&[0u32, 1, 1, 0]).unwrap();
    let table = PageTable::Rows(over(&setup.device, &ids, 0, [2, 2], [2, 1]).0);
    setup
        .run(|args| {
            (*paged(args).k, *paged(args).v) = (pool, pool);
            *paged(args).pages = table;
        })
        .unwrap();
    assert!(setup.status.read().unwrap().is_clean());
}

#[test]
fn pools_that_are_too_large_to_address() {
    let mut setup = Setup::with(everything);
    // SAFETY: As in `over`: nothing is launched.
    let region = unsafe { Region::from_raw_parts(4096, 1 << 40, DType::BF16, &setup.device) };
    let pages = 1 + (1 << 35) / 384;
    let pool: Tensor<'static, 4> = region
        .strided(0, [pages, PAGE, 2, 64], [384, 128, 64, 1])
        .unwrap();
    let error = setup
        .run(|args| (*paged(args).k, *paged(args).v) = (pool, pool))
        .unwrap_err();
    let PrefillError::PoolSize { expected, got, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((expected, got), (1 << 36, pages as u128 * 768));
    assert_eq!(
        error.to_string(),
        format!("k: expected rows within 68719476736 bytes, got {got}")
    );
}

#[test]
fn ragged_rows_that_are_too_far_apart_for_options() {
    let far = |setup: &Setup| -> Tensor<'static, 3> {
        // SAFETY: As in `over`: nothing is launched.
        let region = unsafe { Region::from_raw_parts(4096, 1 << 40, DType::BF16, &setup.device) };
        let stride = 1 << 33; // Elements: the last of six rows is 80 GiB from the first.
        region.strided(0, [ROWS, 2, 64], [stride, 64, 1]).unwrap()
    };
    let mut setup = Setup::with(|problem| problem.softcap(SoftCap::Approx(30.0)));
    let tensor = far(&setup);
    let error = setup
        .run(|args| {
            *ragged(args).k = tensor;
        })
        .unwrap_err();
    assert!(matches!(error, PrefillError::PoolSize { tensor: "k", .. }));
}

#[test]
fn outputs_apart_from_every_operand_of_options() {
    let mut setup = Setup::with(everything);
    let big = setup.stream.alloc::<bf16>(4096).unwrap();
    let shape = [ROWS, HEADS.query, HEADS.dim];
    let address = big.tensor([0]).unwrap().address();
    let view = |dtype: DType| {
        // SAFETY: As in `over`: the tests end in refusals.
        unsafe { Region::from_raw_parts(address, 1024, dtype, &setup.device) }
    };
    let pool = view(DType::BF16).tensor([1, 3, 2, 64]).unwrap();
    let floats = view(DType::F32).tensor([HEADS.query]).unwrap();
    let table = view(DType::U32).tensor([2, 2]).unwrap();
    let indices = |n: usize| view(DType::I32).tensor([n]).unwrap();
    let (two, three, four) = (indices(2), indices(3), indices(4));
    let bytes = view(DType::U8).tensor([4]).unwrap();
    type Change = Box<dyn Fn(&mut PrefillArgs<'_>)>;
    let changes: Vec<(&str, Change)> = vec![
        (
            "k",
            Box::new(move |args| (*paged(args).k, *paged(args).v) = (pool, pool)),
        ),
        (
            "page table",
            Box::new(move |args| *paged(args).pages = PageTable::Rows(table)),
        ),
        (
            "indptr",
            Box::new(move |args| {
                *paged(args).pages = PageTable::Csr {
                    indptr: three,
                    pages: four,
                };
            }),
        ),
        (
            "seqlens_k",
            Box::new(move |args| *paged(args).seqlens = two),
        ),
        ("alibi", Box::new(move |args| args.alibi = Some(floats))),
        ("sinks", Box::new(move |args| args.sinks = Some(floats))),
        (
            "mask bits",
            Box::new(move |args| args.mask.as_mut().unwrap().bits = bytes),
        ),
        (
            "mask offsets",
            Box::new(move |args| args.mask.as_mut().unwrap().offsets = three),
        ),
    ];
    for (name, change) in changes {
        let (_, out): (_, TensorMut<'static, 3>) =
            over(&setup.device, &big, 0, shape, [256, 64, 1]);
        let error = setup.operand(|args| {
            change(args);
            args.out = out;
        });
        let OperandError::Overlap { tensor, other, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((tensor, other), ("out", name));
    }
}
