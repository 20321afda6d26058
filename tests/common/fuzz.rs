//! Cases whose numbers in device memory are garbage.

use infer_kernels::Float;
use infer_kernels::attention::prefill::Window;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::spec::{Source, Spec};
use super::{Case, Lengths, Table};

/// A small case of any kind, some of whose lengths, page ids and offsets are garbage; its keys are in
/// pages, or may be.
pub fn fuzzed<T: Float>(seed: u64, paged: bool) -> Case<T> {
    fuzzed_as(seed, paged, |_| ())
}

/// The same with something decided beforehand.
pub fn fuzzed_as<T: Float>(seed: u64, paged: bool, decide: impl FnOnce(&mut Spec)) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let batch = rng.random_range(1..=5);
    let mut lengths =
        |most: usize| -> Vec<usize> { (0..batch).map(|_| rng.random_range(0..=most)).collect() };
    let lengths = Lengths::of(&lengths(20), &lengths(40));
    let mut spec = Spec::random(rng);
    (spec.dtype, spec.ratio, spec.lse) = (T::DTYPE, rng.random_range(1..=2), true);
    if paged && spec.source == Source::Ragged {
        spec.source = Source::Csr(3);
    }
    // A quarter takes the entries without options.
    if seed.is_multiple_of(4) {
        spec = Spec {
            dims: [(64, 64), (128, 128)][rng.random_range(0..2)],
            window: Window::ALL,
            softcap: None,
            alibi: false,
            sinks: false,
            mask: false,
            ..spec
        };
    }
    decide(&mut spec);
    let mut case: Case<T> = spec.typed(seed, 1, &lengths);
    corrupt_case(rng, &mut case);
    case
}

/// Some of a case's lengths, page ids and offsets become garbage, and what they may lead to numbers.
pub fn corrupt_case<T: Float>(rng: &mut StdRng, case: &mut Case<T>) {
    // Whatever garbage leads to may count: no NaN.
    for operand in [&mut case.q, &mut case.k, &mut case.v] {
        for row in 0..operand.shape[0] {
            for [_, head, d] in super::indices([1, operand.shape[1], operand.shape[2]]) {
                let at = operand.at([row, head, d]);
                if !operand.data[at].to_f64().is_finite() {
                    operand.data[at] = T::nearest(rng.random_range(-2.0..2.0));
                }
            }
        }
    }
    case.device_offsets = true;
    let (rows_q, rows_k) = (case.q.shape[0], case.k.shape[0]);
    if rng.random_bool(0.4) {
        corrupt(rng, &mut case.offsets_q, rows_q);
    }
    if rng.random_bool(0.4) {
        let bytes = case.mask.bits.len();
        corrupt(rng, &mut case.mask.offsets, bytes);
    }
    match &mut case.pages {
        None => corrupt(rng, &mut case.offsets_k, rows_k),
        Some(pages) => {
            pages.filler = 0.5;
            if rng.random_bool(0.5) {
                corrupt(rng, &mut pages.seqlens, 40);
            }
            let pool = pages.pool;
            let entries = match &mut pages.table {
                Table::Csr { indptr, entries } => {
                    if rng.random_bool(0.5) {
                        corrupt(rng, indptr, entries.len());
                    }
                    entries
                }
                Table::Rows { entries, .. } => entries,
            };
            for entry in entries {
                if rng.random_bool(0.1) {
                    *entry = anything(rng, pool) as u32;
                }
            }
        }
    }
}

/// Some numbers become others.
fn corrupt(rng: &mut StdRng, numbers: &mut [i32], most: usize) {
    let everything = rng.random_bool(0.3);
    for number in &mut *numbers {
        if everything || rng.random_bool(0.25) {
            *number = anything(rng, most);
        }
    }
    if rng.random_bool(0.3) {
        numbers.sort_unstable();
    }
}

/// A number that is in range, just not, or not at all.
fn anything(rng: &mut StdRng, most: usize) -> i32 {
    let most = most as i32;
    match rng.random_range(0..10) {
        0 => -1,
        1 => i32::MIN,
        2 => i32::MAX,
        3 => most,
        4 => most + 1,
        5 => rng.random(),
        6 => 1 << rng.random_range(0..31),
        _ => rng.random_range(0..=most),
    }
}
