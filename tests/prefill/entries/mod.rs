//! Every prefill entry by itself, launched with parameters made here instead of by the wrapper, against attention written
//! down here instead of the reference: what the three agree on is not one mistake made twice.
//!
//! Keys that no query may see hold NaN, rows and columns beyond what exists are outside of every allocation, and page ids
//! and lengths may be garbage. Each case is named by its seed; `INFER_KERNELS_CASES=17..18` runs case 17 of each entry.

mod case;

use case::{Case, Memory, Pages, params};
use half::{bf16, f16};
use infer_kernels::attention::prefill::PrefillParams;
use infer_kernels::catalog::{ENTRIES, Entry};
use infer_kernels::ptx_emulator::mutate::Handover;
use infer_kernels::ptx_emulator::{Config, Emulator, Kernel, LaunchConfig, LaunchStats};
use infer_kernels::{Offence, StatusReport};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn launch(
    case: &Case,
    params: &PrefillParams,
    device: &Emulator,
    kernel: &Kernel,
) -> Result<LaunchStats, String> {
    let tiles = (params.max_seqlen_q as u32).div_ceil(case.entry.tile_q);
    let launch = LaunchConfig {
        grid: [tiles.max(1), case.heads as u32, case.q_lens.len() as u32],
        block: [case.entry.threads, 1, 1],
        dynamic_smem: case.entry.smem_bytes,
    };
    let stats = device
        .launch(kernel, &launch, &[bytemuck::bytes_of(params)])
        .map_err(|error| error.to_string())?;
    if let Some(handover) = Handover::get()? {
        handover
            .record(kernel, &stats)
            .map_err(|error| error.to_string())?;
    }
    Ok(stats)
}

fn check(case: &Case, device: &Emulator, kernel: &Kernel) -> Result<(), String> {
    let (params, results) = params(case, &Memory(device));
    launch(case, &params, device, kernel)?;
    let mut status = [0u64; 2];
    let read = |address, bytes: &mut [u8]| device.read(address, bytes).unwrap();
    read(results.status, bytemuck::bytes_of_mut(&mut status));
    let rows_q: usize = case.q_lens.iter().sum();
    let mut out = vec![0u16; rows_q * case.heads * case.v_dim];
    let mut lse = vec![0f32; rows_q * case.heads];
    read(results.out, bytemuck::cast_slice_mut(&mut out));
    read(results.lse, bytemuck::cast_slice_mut(&mut lse));
    for (address, bytes) in [(results.out, 2 * out.len()), (results.lse, 4 * lse.len())] {
        if !device.initialised(address, bytes as u64).unwrap() {
            return Err("some output was made from registers that held nothing".into());
        }
    }
    let (value, ulp): (fn(u16) -> f64, f64) = match case.entry.dtype {
        "f16" => (|x| f16::from_bits(x).to_f64(), 1.0 / 1024.0),
        _ => (|x| bf16::from_bits(x).to_f64(), 1.0 / 128.0),
    };
    let rounded = if case.steep { 1e-3 } else { 1e-4 }; // Scores, in f32.
    let slack = match case.cap {
        Some(cap) if !case.exact_cap => f64::from(cap) / 2048.0,
        _ => rounded,
    };
    let mut row = 0;
    for (b, &q_len) in case.q_lens.iter().enumerate() {
        for i in 0..q_len {
            for head in 0..case.heads {
                let (expected, sum, most) = case.attend(b, row, i, head);
                let got = f64::from(lse[head * rows_q + row]);
                if !(got == sum || (got - sum).abs() <= 2.0 * slack + 1e-5 * sum.abs()) {
                    return Err(format!(
                        "sequence {b} query {i} head {head}: LSE {got}, expected {sum}"
                    ));
                }
                for (d, &exact) in expected.iter().enumerate() {
                    let got = value(out[(row * case.heads + head) * case.v_dim + d]);
                    let bound = most * (ulp + 2.0 * slack) + 1e-6;
                    if (got - exact).abs() > bound || got.is_nan() {
                        return Err(format!(
                            "sequence {b} query {i} head {head} dim {d}: {got}, expected {exact} within {bound}"
                        ));
                    }
                }
            }
            row += 1;
        }
    }
    let report = StatusReport::decode(status);
    let kinds = Offence::ALL
        .into_iter()
        .filter(|&kind| kind <= Offence::Mask);
    let found: Vec<bool> = kinds.map(|offence| report.contains(offence)).collect();
    if found != case.status() {
        return Err(format!("status {report}, expected {:?}", case.status()));
    }
    Ok(())
}

fn describe(case: &Case) -> String {
    let pages = case
        .pages
        .as_ref()
        .map(|p| (p.size, p.count, p.csr, &p.lists));
    format!(
        "{} heads {}/{} dims {}/{} q {:?} k {:?} causal {} window {:?} cap {:?} exact {} slopes {:?} sinks {:?} \
         masks {} pages {pages:?}",
        case.entry.name,
        case.heads,
        case.kv_heads,
        case.dim,
        case.v_dim,
        case.q_lens,
        case.k_lens,
        case.causal,
        case.window,
        case.cap,
        case.exact_cap,
        case.slopes,
        case.sinks,
        case.masks.is_some(),
    )
}

/// One head of 4096 causal tokens, from pages of 16 where the entry can: instructions besides each tensor operation over the
/// whole launch, edges and look-ups included, and no bank conflict.
#[test]
fn pages_cost_little() {
    let goals = [
        ("prefill_bf16_d64_paged", 4.4),
        ("prefill_bf16_d128_paged", 2.7),
        ("prefill_bf16_d128_full", 3.1),
    ];
    for (name, goal) in goals {
        let entry = infer_kernels::catalog::find(name).expect("an entry of this name");
        let mut case = Case::plain(entry, 4096);
        let list = (0..256).rev().collect();
        case.pages = Some(Pages {
            size: 16,
            count: 256,
            csr: false,
            lists: vec![list],
        });
        case.fill(&mut StdRng::seed_from_u64(1));
        let device = Emulator::new(Config::default());
        let kernel = device.load(entry.ptx).unwrap().kernel(name).unwrap();
        let (params, _) = params(&case, &Memory(&device));
        let stats = launch(&case, &params, &device, &kernel).unwrap();
        let tensor: u64 = stats.mma.values().sum();
        let others = (stats.warp_instructions - tensor) as f64 / tensor as f64;
        println!("{name}: {others:.2} other instructions for each tensor operation");
        assert!(others <= goal, "{name}: {others:.2}");
        assert_eq!(stats.bank_conflicts, 0, "{name}");
    }
}

/// The prefill entries with their texts. If an instruction was changed, to see who notices, its own entry alone.
fn entries() -> impl Iterator<Item = (&'static Entry, &'static str)> {
    let handover = Handover::get().unwrap();
    let prefill = ENTRIES.iter().filter(|entry| entry.kernel == "prefill");
    prefill.filter_map(move |entry| match handover {
        Some(handover) => handover
            .concerns(entry.ptx)
            .then(|| (entry, handover.replace(entry.ptx))),
        None => Some((entry, entry.ptx)),
    })
}

/// One head of many tiles, changed before there are numbers in it.
fn walk((entry, ptx): (&'static Entry, &str), seed: u64, change: impl FnOnce(&mut Case)) {
    let device = Emulator::new(Config {
        seed,
        ..Config::default()
    });
    let kernel = device.load(ptx).unwrap().kernel(entry.name).unwrap();
    let mut case = Case::plain(entry, if entry.variant == "lean" { 300 } else { 400 });
    change(&mut case);
    case.fill(&mut StdRng::seed_from_u64(seed));
    if let Err(error) = check(&case, &device, &kernel) {
        panic!("{}: {error}", describe(&case));
    }
}

/// 400 keys in pages of 16, backwards; some pages are absent.
fn pages_without(absent: &[usize], csr: bool) -> Pages {
    let mut list: Vec<u32> = (0..25).rev().collect();
    for &absent in absent {
        list[absent] = [25, u32::MAX][absent % 2];
    }
    Pages {
        size: 16,
        count: 25,
        csr,
        lists: vec![list],
    }
}

/// Walks with and without edges: a few rows of each warp outgrow the others on the way, and where keys are in pages, some in
/// the middle are absent.
#[test]
fn every_entry_on_a_long_walk() {
    for entry in entries() {
        for (seed, causal) in [(0, false), (1, true)] {
            walk(entry, seed, |case| {
                (case.causal, case.steep) = (causal, true);
                if entry.0.variant != "lean" {
                    // Where tiles are 48 keys long, each of these is in another part of one behind a whole one.
                    case.pages = Some(pages_without(&[4, 11, 15], causal));
                }
            });
        }
    }
}

/// One page is absent: whoever comes upon it, it is reported.
#[test]
fn every_entry_reports_the_only_absent_page() {
    for entry in entries().filter(|(entry, _)| entry.variant != "lean") {
        for absent in [0, 2, 9, 13, 20, 24] {
            walk(entry, absent as u64, |case| {
                (case.q_lens, case.causal) = (vec![9], false);
                case.pages = Some(pages_without(&[absent], false));
            });
        }
    }
}

/// Windows of no width, of a few keys, and of about as many as a block has rows, where no tile is whole or a single one.
#[test]
fn every_entry_in_narrow_windows() {
    let of_causal = [0, 150].map(|left| (true, [left, -1]));
    let others = [[-1, 0], [0, 5], [70, 70]].map(|window| (false, window));
    for entry in entries().filter(|(entry, _)| entry.variant == "full") {
        for (causal, window) in of_causal.into_iter().chain(others) {
            walk(entry, 2, |case| {
                (case.causal, case.window) = (causal, window);
            });
        }
    }
}

/// Half of all keys masked, along many tiles; rows of the mask begin at every bit of a byte.
#[test]
fn every_entry_with_a_long_mask() {
    for entry in entries().filter(|(entry, _)| entry.variant == "full") {
        walk(entry, 3, |case| {
            let (q_len, k_len) = (37, 389);
            (case.q_lens, case.k_lens) = (vec![q_len], vec![k_len as i32]);
            let rng = &mut StdRng::seed_from_u64(3);
            let mask = (0..q_len * k_len).map(|_| rng.random_bool(0.5));
            case.masks = Some(vec![mask.collect()]);
        });
    }
}

#[test]
fn every_entry_by_itself() {
    let cases = std::env::var("INFER_KERNELS_CASES").unwrap_or("0..6".into());
    let (first, end) = cases.split_once("..").expect("FIRST..END");
    let cases = first.parse().unwrap()..end.parse().unwrap();
    for (entry, ptx) in entries() {
        for seed in cases.clone() {
            let device = Emulator::new(Config {
                seed,
                ..Default::default()
            });
            let kernel = device.load(ptx).unwrap().kernel(entry.name).unwrap();
            let case = Case::random(entry, seed);
            if let Err(error) = check(&case, &device, &kernel) {
                panic!("seed {seed}: {}: {error}", describe(&case));
            }
        }
    }
}
