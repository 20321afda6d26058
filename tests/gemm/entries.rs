//! Every entry that multiplies, on shapes that end anywhere in its tiles.
//!
//! `INFER_KERNELS_ENTRY=gemm_f16_kn_64x128` runs one entry alone, `INFER_KERNELS_CASES=0..40` more cases of each.

use crate::common::gemm::Case;
use crate::common::{devices_of_all_models, in_parallel, seeds, wanted};
use half::{bf16, f16};
use infer_kernels::DType;
use infer_kernels::gemm::{GemmPlan, WeightLayout};

#[test]
fn every_entry_on_tiles_that_end_anywhere() {
    let devices = devices_of_all_models();
    let tiles = [[16, 128], [64, 128], [128, 128], [128, 256]];
    let mut cases = vec![];
    for dtype in [DType::F16, DType::BF16] {
        for (layout, code) in [(WeightLayout::Nk, "nk"), (WeightLayout::Kn, "kn")] {
            for [m, n] in tiles {
                let entry = format!("gemm_{dtype}_{code}_{m}x{n}");
                cases.extend(
                    seeds(0..2).map(|seed| (entry.clone(), dtype, layout, Some([m, n]), seed)),
                );
            }
            let entry = format!("gemm_{dtype}_any");
            cases.extend(seeds(0..2).map(|seed| (entry.clone(), dtype, layout, None, seed)));
        }
    }
    cases.retain(|(entry, ..)| wanted(entry));
    in_parallel(&cases, |(entry, dtype, layout, tile, seed)| {
        let device = &devices[*seed as usize % devices.len()];
        let judged = match dtype {
            DType::F16 => check::<f16>(entry, *layout, *tile, *seed, device),
            _ => check::<bf16>(entry, *layout, *tile, *seed, device),
        };
        if let Err(error) = judged {
            panic!("{entry}, case {seed}: {error}");
        }
    });
}

fn check<T: infer_kernels::Float>(
    entry: &str,
    layout: WeightLayout,
    tile: Option<[usize; 2]>,
    seed: u64,
    device: &infer_kernels::Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let case = Case::<T>::random_of_tile(seed, layout, tile);
    assert_eq!(GemmPlan::new(device, &case.problem)?.entry(), entry);
    case.check(device)?;
    Ok(())
}
