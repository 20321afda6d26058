//! Mistakes that other libraries have made, each as a test of its own.

use crate::common::spec::{LEVELS, Source, Spec};
use crate::common::{Case, Lengths, Pages, PoolLayout, Table, in_parallel, shared_device};
use half::bf16;
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::prefill::{
    HeadShape, Kv, KvLayout, PageTable, PrefillArgs, PrefillPlan, PrefillProblem, SoftCap, Window,
};
use infer_kernels::ptx_emulator::Config;
use infer_kernels::{DType, Device, Region, RegionMut, StatusWord, catalog};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn spec(dim: usize, source: Source) -> Spec {
    Spec {
        dims: (dim, dim),
        source,
        lse: true,
        ..Spec::of(&LEVELS.map(|_| 0))
    }
}

fn check(what: &str, case: &Case<bf16>) {
    if let Err(error) = case.check(shared_device()) {
        panic!("{what}: {error}");
    }
}

/// Windows that are one key too wide or too narrow at an edge.
#[test]
fn a_window_is_exact_whatever_its_size() {
    let q = [1, 70, 33, 70, 17, 64];
    let k = [70, 70, 64, 33, 70, 65];
    let lengths = Lengths::of(&q, &k);
    let sides = || (0..=71).map(Some).chain([None]);
    let others = [None, Some(0), Some(7)];
    let windows: Vec<Window> = others
        .into_iter()
        .flat_map(|other| {
            sides().flat_map(move |side| {
                [(side, other), (other, side)].map(|(left, right)| Window { left, right })
            })
        })
        .collect();
    in_parallel(&windows, |&window| {
        let mut spec = spec(8, Source::Ragged);
        spec.window = window;
        check(&format!("{window:?}"), &spec.typed(1, 1, &lengths));
    });
}

/// Windows whose edges fall on, before and behind the edges of key tiles.
#[test]
fn a_window_is_exact_at_the_edges_of_tiles() {
    let mut windows = Vec::new();
    for edge in [0usize, 16, 48, 64, 96, 128, 192, 256] {
        for keys in [edge, edge + 1, edge.saturating_sub(1)] {
            windows.extend([
                Window::left(keys),
                Window::new(keys, 3),
                Window::new(keys, keys),
            ]);
        }
    }
    let lengths = Lengths::of(&[150, 257], &[257, 150]);
    in_parallel(&windows, |&window| {
        for (dim, source) in [(64, Source::Ragged), (128, Source::Rows(16))] {
            for causal in [false, true] {
                let mut spec = spec(dim, source);
                (spec.window, spec.causal) = (window, causal);
                let case = spec.typed(2, 1, &lengths);
                check(
                    &format!("{window:?}, head dim {dim}, causal {causal}"),
                    &case,
                );
            }
        }
    });
}

/// A window that the API takes and some path of the kernels ignores; likewise every other option.
#[test]
fn every_entry_obeys_every_option_that_it_is_chosen_for() {
    let entries: Vec<_> = catalog::ENTRIES
        .iter()
        .filter(|entry| entry.kernel == "prefill" && entry.variant == "full")
        .collect();
    assert!(!entries.is_empty());
    in_parallel(&entries, |entry| {
        let level = usize::from(entry.dtype == "bf16");
        let mut levels = LEVELS.map(|_| 0);
        levels[0] = level;
        let plain = Spec {
            dims: (entry.head_dim as usize, entry.v_dim as usize),
            lse: true,
            ..Spec::of(&levels)
        };
        type Change = fn(&mut Spec);
        let changes: [Change; 7] = [
            |spec| spec.window = Window::left(9),
            |spec| spec.window = Window::new(70, 5),
            |spec| spec.softcap = Some(SoftCap::Approx(1.0)),
            |spec| spec.softcap = Some(SoftCap::Exact(1.0)),
            |spec| spec.alibi = true,
            |spec| spec.sinks = true,
            |spec| spec.mask = true,
        ];
        for (at, change) in changes.iter().enumerate() {
            for source in [Source::Ragged, Source::Csr(3)] {
                let mut spec = plain.clone();
                (spec.source, spec.causal) = (source, at % 2 == 0);
                change(&mut spec);
                let lengths = Lengths::of(&[67, 3], &[131, 70]);
                let mut case = spec.case(at as u64, 1, &lengths);
                let plan = PrefillPlan::new(shared_device(), case.problem()).unwrap();
                assert_eq!(plan.entry(), entry.name);
                if let Err(error) = case.check(shared_device()) {
                    panic!("{}: {error}\n{spec:#?}", entry.name);
                }
            }
        }
    });
}

/// Causality that an entry ignores for ragged batches, and log-sum-exps in other units.
#[test]
fn every_entry_is_causal_and_has_natural_log_sum_exps() {
    for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "prefill") {
        let mut spec = spec(entry.head_dim as usize, Source::Ragged);
        spec.dims.1 = entry.v_dim as usize;
        spec.dtype = match entry.dtype {
            "f16" => DType::F16,
            _ => DType::BF16,
        };
        spec.causal = true;
        spec.source = match entry.variant {
            "paged" => Source::Rows(16),
            _ => Source::Ragged,
        };
        spec.sinks = entry.variant == "full";
        let lengths = Lengths::of(&[33, 1, 70], &[33, 40, 150]);
        let mut case = spec.case(4, 1, &lengths);
        let plan = PrefillPlan::new(shared_device(), case.problem()).unwrap();
        assert_eq!(plan.entry(), entry.name);
        assert_eq!(plan.workspace_bytes(), 0);
        case.check(shared_device())
            .unwrap_or_else(|error| panic!("{}: {error}", entry.name));
    }
}

/// Causality aligned with the first key instead of the last, and first queries without keys.
#[test]
fn causality_ends_at_the_last_key_for_all_lengths() {
    let k: Vec<usize> = (0..=70).collect();
    let lengths: Vec<usize> = (0..=70).collect();
    in_parallel(&lengths, |&q| {
        let lengths = Lengths::of(&vec![q; k.len()], &k);
        for (dim, source) in [(64, Source::Ragged), (8, Source::Csr(7))] {
            let mut spec = spec(dim, source);
            spec.causal = true;
            check(&format!("{q} queries, {dim}"), &spec.typed(5, 1, &lengths));
        }
    });
}

/// NaN in slots of the cache that hold no key yet, or none any more.
#[test]
fn nan_where_nobody_looks_has_no_effect() {
    let lengths = Lengths::of(&[30, 70, 0, 5], &[130, 33, 40, 200]);
    for (dim, source) in [
        (64, Source::Ragged),
        (64, Source::Rows(16)),
        (128, Source::Csr(7)),
    ] {
        for (window, mask) in [(Window::left(10), false), (Window::left(80), true)] {
            let mut spec = spec(dim, source);
            (spec.window, spec.mask, spec.causal) = (window, mask, true);
            let mut case: Case<bf16> = spec.typed(6, 1, &lengths);
            let poisoned = case.poison(&mut StdRng::seed_from_u64(1));
            assert!(poisoned > 100, "{poisoned}");
            assert!(case.exact().out.iter().all(|x| x.is_finite()));
            check(&format!("{source:?} {window:?}"), &case);
        }
    }
}

/// Sequences without queries or keys that come out as NaN.
#[test]
fn empty_sequences_are_zero_and_minus_infinity() {
    for source in [Source::Ragged, Source::Rows(4), Source::Csr(4)] {
        for sinks in [false, true] {
            let mut spec = spec(64, source);
            spec.sinks = sinks;
            let case: Case<bf16> = spec.typed(7, 1, &Lengths::of(&[3, 0, 2, 0], &[0, 4, 5, 0]));
            let outcome = case.run(shared_device()).unwrap();
            case.judge(&outcome).unwrap();
            assert!(outcome.out[..3 * 64].iter().all(|&x| x == bf16::ZERO));
            let empty = if sinks {
                case.sinks[0]
            } else {
                f32::NEG_INFINITY
            };
            for &lse in &outcome.lse[..3] {
                assert!((lse - empty).abs() < 1e-6 || lse == empty, "{lse}, {empty}");
            }
        }
    }
}

/// A slice of a larger table, of which a kernel takes the slice's width for the distance of rows.
#[test]
fn a_slice_of_a_page_table_keeps_its_stride() {
    let rng = &mut StdRng::seed_from_u64(8);
    let mut case: Case<bf16> = spec(64, Source::Rows(4)).typed(8, 1, &Lengths::same(&[9, 14, 6]));
    let layout = PoolLayout::Nhd { pad: 0 };
    let pages = Pages::random(rng, 4, false, layout, &case.offsets_k, case.k.shape[0]);
    case.put_in_pages(pages);
    let Some(Pages {
        table:
            Table::Rows {
                offset,
                stride,
                len,
                entries,
            },
        ..
    }) = &mut case.pages
    else {
        panic!("a table of rows was asked for");
    };
    let (wide, shift) = (*len + 5, 3);
    let mut larger = vec![u32::MAX; shift + 3 * wide];
    for b in 0..3 {
        let row = &entries[*offset + b * *stride..][..*len];
        larger[shift + b * wide..][..*len].copy_from_slice(row);
    }
    (*offset, *stride, *entries) = (shift, wide, larger);
    check("a slice", &case);
}

/// A page size that no kernel was compiled for, for which nothing is launched and nothing said.
#[test]
fn every_page_size_works() {
    let sizes: Vec<usize> = (1..=33)
        .chain([48, 63, 64, 65, 100, 128, 256, 1000])
        .collect();
    in_parallel(&sizes, |&page_size| {
        let heads = HeadShape {
            query: 2,
            kv: 1,
            dim: 64,
        };
        let problem = PrefillProblem::new(DType::BF16, heads, 2, 70).paged(page_size);
        problem.supports().unwrap();
        for source in [Source::Rows(page_size), Source::Csr(page_size)] {
            let mut spec = spec(64, source);
            (spec.causal, spec.layout) = (page_size % 2 == 0, page_size % 3);
            let case = spec.typed(9, 1, &Lengths::of(&[70, 13], &[131, 13]));
            check(&format!("{source:?}"), &case);
        }
    });
}

/// Offsets in 32 bits: rows that lie four gibibytes and more apart, of which only the rows exist.
#[test]
fn offsets_beyond_32_bits_are_followed() {
    const TOKENS: usize = 6;
    const STEP: usize = 1 << 29;
    const ROW: usize = 64;
    // No other device has so much memory.
    let device = &Device::emulator(Config::default());
    let stream = device.stream();
    let emulator = device.as_emulator().expect("an emulator");
    // Row t of operand n is at element t * STEP + n * 4096.
    let len = (TOKENS - 1) * STEP + 4 * 4096;
    let address = emulator.alloc(2 * len as u64).unwrap();
    let rng = &mut StdRng::seed_from_u64(10);
    let at = |operand: usize, token: usize| address + 2 * (token * STEP + operand * 4096) as u64;
    let mut dense: Vec<Vec<bf16>> = Vec::new();
    for operand in 0..4 {
        let numbers = (0..TOKENS * ROW).map(|_| bf16::from_f32(rng.random_range(-2.0..2.0)));
        let rows: Vec<bf16> = numbers.collect();
        for (token, row) in rows.chunks(ROW).enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            emulator.write(at(operand, token), &bytes).unwrap();
        }
        dense.push(rows);
    }
    let heads = HeadShape {
        query: 1,
        kv: 1,
        dim: ROW,
    };
    let lens = SeqLens::from_lengths(&stream, &[TOKENS]).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let table = stream.upload(&[0u32, 1, 2, 3, 4, 5]).unwrap();
    let seqlens = stream.upload(&[TOKENS as i32]).unwrap();
    let inputs = [0, 1, 2].map(|n| stream.upload(&dense[n]).unwrap());
    let mut near = stream.alloc::<bf16>(TOKENS * ROW).unwrap();
    let [q, k, v] = [0, 1, 2].map(|n| inputs[n].tensor([TOKENS, 1, ROW]).unwrap());
    let problem = PrefillProblem::new(DType::BF16, heads, 1, TOKENS).causal(true);
    let kv = Kv::Ragged {
        k,
        v,
        seqlens: (&lens).into(),
    };
    let out = near.tensor_mut([TOKENS, 1, ROW]).unwrap();
    let plan = PrefillPlan::new(device, &problem).unwrap();
    plan.run(&stream, PrefillArgs::new(q, kv, out, &lens, &status))
        .unwrap();
    let near = near.download().unwrap();

    for problem in [
        problem.clone(),
        problem.clone().paged(1),
        problem.paged(1).sinks(true),
    ] {
        // SAFETY: Allocated above and never freed; these are the only users, one after the other.
        let (region, region_mut) = unsafe {
            (
                Region::from_raw_parts(address, len as u64, DType::BF16, device),
                RegionMut::from_raw_parts(address, len as u64, DType::BF16, device),
            )
        };
        let step = STEP as i64;
        let rows = |n: usize| region.strided(n * 4096, [TOKENS, 1, ROW], [step, step, 1]);
        let pages = |n: usize| region.strided(n * 4096, [TOKENS, 1, 1, ROW], [step, step, step, 1]);
        let out = region_mut
            .strided(3 * 4096, [TOKENS, 1, ROW], [step, step, 1])
            .unwrap();
        let kv = match problem.kv {
            KvLayout::Ragged => Kv::Ragged {
                k: rows(1).unwrap(),
                v: rows(2).unwrap(),
                seqlens: (&lens).into(),
            },
            KvLayout::Paged { .. } => Kv::Paged {
                k: pages(1).unwrap(),
                v: pages(2).unwrap(),
                pages: PageTable::Rows(table.tensor([1, TOKENS]).unwrap()),
                seqlens: seqlens.tensor([1]).unwrap(),
            },
        };
        let mut args = PrefillArgs::new(rows(0).unwrap(), kv, out, &lens, &status);
        let none = stream.upload(&[f32::NEG_INFINITY]).unwrap();
        if problem.sinks {
            args = args.sinks(none.tensor([1]).unwrap());
        }
        let plan = PrefillPlan::new(device, &problem).unwrap();
        plan.run(&stream, args).unwrap();
        for token in 0..TOKENS {
            let mut bytes = [0; 2 * ROW];
            emulator.read(at(3, token), &mut bytes).unwrap();
            let got: Vec<bf16> = bytes
                .chunks_exact(2)
                .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]))
                .collect();
            let expected = &near[token * ROW..][..ROW];
            assert!(got == expected, "{}, token {token}", plan.entry());
        }
    }
    assert!(status.read().unwrap().is_clean());
    emulator.free(address).unwrap();
}
