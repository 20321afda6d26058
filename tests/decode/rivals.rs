//! Faults that other decode kernels have had, and what splitting keys could break: each a case that
//! would show it.

use crate::common::{Case, Lengths, decode, device_with, in_parallel, shared_device};
use half::bf16;
use infer_kernels::attention::decode::{DecodeArgs, DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, Kv, PageTable, Window};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::{DType, Device, Region, RegionMut, StatusWord, Tensor, TensorMut};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn heads(query: usize, kv: usize) -> HeadShape {
    HeadShape { query, kv, dim: 64 }
}

fn case(heads: HeadShape, queries: &[usize], keys: &[usize]) -> Case<bf16> {
    let mut case = decode::plain_of(11, heads, &Lengths::of(queries, keys));
    case.problem.lse = true;
    case
}

fn check(what: &str, case: &Case<bf16>, blocks: usize) {
    if let Err(error) = case.check_decode(shared_device(), blocks) {
        panic!("{what}, {blocks} blocks: {error}");
    }
}

/// Fewer blocks than kv heads, where a chunk size is divided by what is left of the grid.
#[test]
fn fewer_blocks_than_heads_are_enough() {
    let case = case(heads(32, 32), &[1, 1], &[5, 40]);
    for blocks in [1, 3, 31] {
        check("32 heads of their own", &case, blocks);
    }
}

/// More blocks than work, and every number between: shares end anywhere in an item.
#[test]
fn any_number_of_blocks_gives_the_result() {
    let case = case(heads(4, 2), &[1, 2, 1], &[700, 129, 1]);
    let blocks: Vec<usize> = (1..=24).chain([100]).collect();
    in_parallel(&blocks, |&blocks| check("three sequences", &case, blocks));
}

/// Ratios of query to kv heads that no kernel was compiled for.
#[test]
fn every_group_size_works() {
    let groups: Vec<usize> = (1..=18).chain([32, 64]).collect();
    in_parallel(&groups, |&group| {
        let case = case(heads(group, 1), &[1, 3], &[33, 70]);
        check(&format!("groups of {group}"), &case, 2);
    });
}

/// Every page size, found through rows and through a list.
#[test]
fn every_page_size_works() {
    use crate::common::spec::{LEVELS, Source, Spec};
    let sizes: Vec<usize> = (1..=17).chain([31, 32, 33, 64, 100, 128, 1000]).collect();
    in_parallel(&sizes, |&size| {
        for source in [Source::Rows(size), Source::Csr(size)] {
            let spec = Spec {
                source,
                layout: size % 3,
                ..Spec::of(&LEVELS.map(|_| 0))
            };
            let case: Case<bf16> = spec.typed(5, 1, &Lengths::of(&[1, 1], &[131, 13]));
            check(&format!("{source:?}"), &case, 3);
        }
    });
}

/// A window that is obeyed without a split and ignored with one, or one key too wide or too narrow.
#[test]
fn windows_are_exact_whether_keys_are_split_or_not() {
    let windows: Vec<usize> = [0, 1, 2, 30, 31, 32, 33, 127, 128, 511, 512, 513, 1199, 1200].into();
    in_parallel(&windows, |&left| {
        let mut case = case(heads(2, 1), &[1, 2], &[1200, 300]);
        case.problem.window = Window::left(left);
        // Keys that expired hold NaN.
        case.poison(&mut StdRng::seed_from_u64(3));
        for blocks in [1, 4, 13] {
            check(&format!("window of {left} keys"), &case, blocks);
        }
    });
}

/// A sink that every split counts, or only some.
#[test]
fn sinks_count_once_whatever_the_splits() {
    let mut case = case(heads(4, 2), &[1, 1], &[600, 0]);
    case.problem.sinks = true;
    case.sinks = vec![-3.0, 0.0, 2.0, 9.0];
    for blocks in [1, 2, 7, 11] {
        check("sinks", &case, blocks);
    }
}

/// References of splits that differ by more than an exponential can bridge, and splits without
/// weight: keys that dominate at either end, and keys whose scores are all -∞.
#[test]
fn splits_of_very_different_weight_merge() {
    for dominant in [0, 130, 599] {
        let mut case = case(heads(2, 1), &[1], &[600]);
        (case.problem.scale, case.problem.lse) = (1.0, false); // Infinite terms: any log-sum-exp would do.
        case.q.set_row(0, 1.0);
        case.k.set_row(dominant, 3.0);
        for row in 256..384 {
            case.k.set_row(row, f64::NEG_INFINITY);
        }
        for blocks in [1, 5, 9] {
            check(&format!("key {dominant} has all the weight"), &case, blocks);
        }
    }
}

/// NaN in a key that is seen gives NaN in every head that sees it, and nowhere else.
#[test]
fn nan_stays_with_its_sequence() {
    let mut case = case(heads(4, 2), &[1, 1, 1], &[200, 300, 200]);
    case.k.set_row(350, f64::NAN);
    for blocks in [1, 3, 10] {
        let outcome = case.decode(shared_device(), blocks).unwrap();
        case.judge(&outcome).unwrap();
        let nan = |row: usize| {
            outcome.out[row * 256..][..256]
                .iter()
                .filter(|x| x.is_nan())
        };
        assert_eq!([0, 1, 2].map(|row| nan(row).count()), [0, 256, 0]);
    }
}

/// Sums that depend on who comes first.
#[test]
fn repeats_give_the_same_bits_in_any_order_of_blocks() {
    let case = case(heads(8, 2), &[1, 2, 1], &[500, 257, 90]);
    let bits = |seed: u64| -> Vec<u16> {
        let device = device_with(Config {
            seed,
            ..Config::default()
        });
        let out = case.decode(&device, 9).unwrap().out;
        out.iter().map(|x| x.to_bits()).collect()
    };
    let first = bits(1);
    for seed in 2..6 {
        assert_eq!(bits(seed), first);
    }
}

/// Offsets in 32 bits: pages and rows that lie four gibibytes and more apart, of which only the rows
/// exist.
#[test]
fn offsets_beyond_32_bits_are_followed() {
    const PAGES: usize = 6;
    const STEP: usize = 1 << 29;
    const DIM: usize = 64;
    // No other device has so much memory.
    let device = &Device::emulator(Config::default());
    let stream = device.stream();
    let emulator = device.as_emulator().expect("an emulator");
    // Page p, or query p, of operand n is at element p * STEP + n * 4096.
    let len = (PAGES - 1) * STEP + 4 * 4096;
    let address = emulator.alloc(2 * len as u64).unwrap();
    let at = |operand: usize, page: usize| address + 2 * (page * STEP + operand * 4096) as u64;
    let rng = &mut StdRng::seed_from_u64(10);
    let dense: [Vec<bf16>; 3] = [(); 3].map(|()| {
        let numbers = (0..PAGES * DIM).map(|_| bf16::from_f32(rng.random_range(-2.0..2.0)));
        numbers.collect()
    });
    for (operand, rows) in dense.iter().enumerate() {
        for (page, row) in rows.chunks(DIM).enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            emulator.write(at(operand, page), &bytes).unwrap();
        }
    }
    let problem = DecodeProblem::new(DType::BF16, heads(1, 1), 1, 1)
        .max_queries(PAGES)
        .blocks(2);
    let plan = DecodePlan::new(device, &problem).unwrap();
    let table = stream.upload(&[0u32, 1, 2, 3, 4, 5]).unwrap();
    let seqlens = stream.upload(&[PAGES as i32]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let run = |q: Tensor<'_, 3>, k: Tensor<'_, 4>, v: Tensor<'_, 4>, out: TensorMut<'_, 3>| {
        let mut workspace = stream.alloc::<f32>(plan.workspace_elements()).unwrap();
        let kv = Kv::Paged {
            k,
            v,
            pages: PageTable::Rows(table.tensor([1, PAGES]).unwrap()),
            seqlens: seqlens.tensor([1]).unwrap(),
        };
        let workspace = workspace.tensor_mut([plan.workspace_elements()]).unwrap();
        let args = DecodeArgs::new(q, kv, out, workspace, &status);
        plan.run(&stream, args).unwrap();
        assert!(status.read().unwrap().is_clean());
    };

    let inputs = dense.each_ref().map(|rows| stream.upload(rows).unwrap());
    let mut near = stream.alloc::<bf16>(PAGES * DIM).unwrap();
    run(
        inputs[0].tensor([PAGES, 1, DIM]).unwrap(),
        inputs[1].tensor([PAGES, 1, 1, DIM]).unwrap(),
        inputs[2].tensor([PAGES, 1, 1, DIM]).unwrap(),
        near.tensor_mut([PAGES, 1, DIM]).unwrap(),
    );
    // SAFETY: Allocated above and never freed; these are the only users, one after the other.
    let (region, region_mut) = unsafe {
        (
            Region::from_raw_parts(address, len as u64, DType::BF16, device),
            RegionMut::from_raw_parts(address, len as u64, DType::BF16, device),
        )
    };
    let step = STEP as i64;
    let pages = |n: usize| region.strided(n * 4096, [PAGES, 1, 1, DIM], [step, step, step, 1]);
    let rows = [PAGES, 1, DIM];
    run(
        region.strided(0, rows, [step, step, 1]).unwrap(),
        pages(1).unwrap(),
        pages(2).unwrap(),
        region_mut.strided(3 * 4096, rows, [step, step, 1]).unwrap(),
    );
    let near = near.download().unwrap();
    for (page, row) in near.chunks(DIM).enumerate() {
        let mut bytes = [0u8; 2 * DIM];
        emulator.read(at(3, page), &mut bytes).unwrap();
        let got: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(got, bytes, "page {page}");
    }
}
