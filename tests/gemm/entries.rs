//! Every entry that multiplies, on shapes that end anywhere in its tiles.
//!
//! `INFER_KERNELS_ENTRY=gemm_f16_kn_64x128` runs one entry alone, `INFER_KERNELS_CASES=0..40` more cases of each.

use std::error::Error;

use crate::common::gemm::{Case, Matrix};
use crate::common::{device, devices_of_all_models, in_parallel, seeds, wanted};
use half::{bf16, f16};
use infer_kernels::gemm::{Activation, GemmPlan, GemmProblem, WeightLayout};
use infer_kernels::{DType, Device, Float};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// An entry, and what a problem has to ask for to get it.
struct Entry {
    name: String,
    dtype: DType,
    layout: WeightLayout,
    tile: Option<[usize; 2]>,
}

/// All of them, or the one that is wanted.
fn entries() -> Vec<Entry> {
    let tiles = [[16, 128], [64, 128], [128, 128], [128, 256]];
    let mut entries = vec![];
    for dtype in [DType::F16, DType::BF16] {
        for (layout, code) in [(WeightLayout::Nk, "nk"), (WeightLayout::Kn, "kn")] {
            entries.extend(tiles.map(|[m, n]| Entry {
                name: format!("gemm_{dtype}_{code}_{m}x{n}"),
                dtype,
                layout,
                tile: Some([m, n]),
            }));
            entries.push(Entry {
                name: format!("gemm_{dtype}_any"),
                dtype,
                layout,
                tile: None,
            });
        }
    }
    entries.retain(|entry| wanted(&entry.name));
    entries
}

#[test]
fn every_entry_on_tiles_that_end_anywhere() {
    let devices = devices_of_all_models();
    let of_entry = |entry| seeds(0..2).map(move |seed| (entry, seed));
    let entries = entries();
    let cases: Vec<(&Entry, u64)> = entries.iter().flat_map(of_entry).collect();
    in_parallel(&cases, |&(entry, seed)| {
        let device = &devices[seed as usize % devices.len()];
        let Entry { layout, tile, .. } = *entry;
        let judged = match entry.dtype {
            DType::F16 => check(
                entry,
                Case::<f16>::random_of_tile(seed, layout, tile),
                device,
            ),
            _ => check(
                entry,
                Case::<bf16>::random_of_tile(seed, layout, tile),
                device,
            ),
        };
        if let Err(error) = judged {
            panic!("{}, case {seed}: {error}", entry.name);
        }
    });
}

/// More tiles than a group of them has; any number of tiles of K, of which the last is cut off; gates far beyond what
/// clamps them.
#[test]
fn every_entry_where_random_cases_rarely_come() {
    let device = device();
    let cut_off = (1..=13).map(|tiles| ([5, 24, 32 * tiles - 8], Activation::None));
    let entries = entries();
    in_parallel(&entries, |entry| {
        let [m, n] = entry.tile.unwrap_or([64, 16]);
        let many = ([9 * m + 1, 2 * n + 8, 40], Activation::None);
        let clamped = ([20, 40, 64], Activation::ClampedSwiglu);
        for (shape, activation) in [many, clamped].into_iter().chain(cut_off.clone()) {
            let judged = match entry.dtype {
                DType::F16 => check(entry, of_shape::<f16>(entry, shape, activation), &device),
                _ => check(entry, of_shape::<bf16>(entry, shape, activation), &device),
            };
            if let Err(error) = judged {
                panic!("{}, {shape:?}: {error}", entry.name);
            }
        }
    });
}

fn of_shape<T: Float>(entry: &Entry, [m, n, k]: [usize; 3], activation: Activation) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(k as u64);
    let gated = activation == Activation::ClampedSwiglu;
    let problem = GemmProblem::new(T::DTYPE, m, n, k)
        .layout(entry.layout)
        .aligned(entry.tile.is_some())
        .activation(activation)
        .gated(gated)
        .tile(entry.tile)
        .splits(Some(1));
    let w_shape = match entry.layout {
        WeightLayout::Nk => [n, k],
        WeightLayout::Kn => [k, n],
    };
    let x = Matrix::random(rng, [m, k], 8);
    let w = Matrix::random(rng, w_shape, 8);
    let mut case = Case::plain(problem, x, w);
    if gated {
        // Up weights lie as the gate's do: the gate's rows, the other way round.
        let mut up = case.w.clone();
        let rows = up.shape[0];
        for row in 0..rows {
            for col in 0..up.shape[1] {
                let from = case.w.offset + (rows - 1 - row) * up.pitch + col;
                up.data[up.offset + row * up.pitch + col] = case.w.data[from];
            }
        }
        case.w_up = Some(up);
    }
    case
}

fn check<T: Float>(entry: &Entry, case: Case<T>, device: &Device) -> Result<(), Box<dyn Error>> {
    assert_eq!(GemmPlan::new(device, &case.problem)?.entry(), entry.name);
    case.check(device)?;
    Ok(())
}
