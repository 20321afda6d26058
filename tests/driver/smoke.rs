//! Each entry once through each backend, against the reference.

use half::{bf16, f16};
use infer_kernels::attention::prefill::{PrefillPlan, SoftCap, Window};
use infer_kernels::blocks::{BlockFormat, BlockPlan, BlockProblem};
use infer_kernels::gemm::{GemmPlan, GemmProblem, WeightLayout};
use infer_kernels::int4::load::Scale;
use infer_kernels::int4::{Codes, Int4Plan, Int4Problem};
use infer_kernels::moe::{MoeProblem, Routing};
use infer_kernels::{DType, Device, Float, catalog};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::common::blocks_case;
use crate::common::gemm::{self, Matrix};
use crate::common::int4_case;
use crate::common::quantised::{self, Quantised};
use crate::common::spec::{LEVELS, Source, Spec};
use crate::common::{Lengths, kv, mla, moe};
use crate::common::{decode, elementwise, sample};
use crate::{BACKENDS, emulated};

#[test]
fn every_prefill_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let prefill = catalog::ENTRIES.iter().filter(|e| e.kernel == "prefill");
        for (seed, entry) in prefill.enumerate() {
            let mut case = prefill_spec(entry).case(seed as u64, 1, &Lengths::same(&[37, 0, 70]));
            let plan = PrefillPlan::new(&device, case.problem()).unwrap();
            assert_eq!(plan.entry(), entry.name);
            case.check(&device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// What only this entry computes.
fn prefill_spec(entry: &catalog::Entry) -> Spec {
    let full = match entry.variant {
        "lean" | "paged" => false,
        "full" => true,
        other => panic!("a new variant {other} wants a smoke case here"),
    };
    Spec {
        dtype: match entry.dtype {
            "f16" => DType::F16,
            _ => DType::BF16,
        },
        dims: (entry.head_dim as usize, entry.v_dim as usize),
        ratio: 3,
        source: match entry.variant {
            "lean" => Source::Ragged,
            _ => Source::Rows(16),
        },
        layout: 0,
        causal: true,
        window: if full { Window::left(29) } else { Window::ALL },
        softcap: full.then_some(SoftCap::Approx(1.5)),
        alibi: full,
        sinks: full,
        mask: full,
        lse: full,
    }
}

#[test]
fn every_gemm_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "gemm") {
            let of = match entry.dtype {
                "f16" => gemm_case::<f16>,
                _ => gemm_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

#[test]
fn every_decode_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "decode") {
            let of = match entry.dtype {
                "f16" => decode_case::<f16>,
                _ => decode_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

#[test]
fn every_batch_invariant_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let entries = catalog::ENTRIES.iter();
        for entry in entries.filter(|e| e.kernel == "decode_invariant") {
            let of = match entry.dtype {
                "f16" => invariant_case::<f16>,
                _ => invariant_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// Attention by this entry; for the one that adds up segments, by another and then by this.
fn invariant_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let (dim, blocks) = match entry.variant {
        "merge" => (64, 6),
        _ => (entry.head_dim as usize, 1),
    };
    let spec = Spec {
        dims: (dim, dim),
        ratio: 3,
        source: Source::Csr(5),
        sinks: true,
        lse: true,
        ..Spec::of(&LEVELS.map(|_| 0))
    };
    let case = spec.typed::<T>(4, 2, &Lengths::of(&[1, 3, 0], &[70, 1040, 0]));
    let outcome = case.decode_invariant(device, blocks)?;
    assert!(outcome.entry == entry.name || entry.variant == "merge");
    case.judge(&outcome)?;
    Ok(())
}

/// Attention by this entry; for the one that adds up splits, by another and then by this.
fn decode_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let dim = entry.head_dim.max(64) as usize;
    let (case, blocks) = match entry.variant {
        "lean" => (decode::smoke::<T>(1, dim, false), 1),
        "full" => (decode::smoke::<T>(2, dim, true), 1),
        "merge" => (decode::smoke::<T>(3, dim, false), 7),
        other => panic!("a new variant {other} wants a smoke case here"),
    };
    let outcome = case.decode(device, blocks)?;
    assert!(outcome.entry == entry.name || entry.variant == "merge");
    case.judge(&outcome)?;
    Ok(())
}

#[test]
fn every_mla_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "mla") {
            let of = match entry.dtype {
                "f16" => mla_case::<f16>,
                _ => mla_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// Latent attention by this entry; for the one that adds up splits, by another and then by this.
fn mla_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let way = match entry.variant {
        "merge" => mla::Way::plain(16, 3),
        _ => mla::Way::plain(entry.tile_q as usize, 1),
    };
    let case = mla::case::<T>(1, 3, &Lengths::of(&[1, 2], &[70, 33]), 5, true);
    let outcome = case.mla(device, way)?;
    assert!(outcome.entry == entry.name || entry.variant == "merge");
    case.judge(&outcome)?;
    Ok(())
}

#[test]
fn every_decode_entry_for_8_bits_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES
            .iter()
            .filter(|e| e.kernel == "decode_quantised")
        {
            quantised_case::<f16>(entry, &device)
                .and_then(|()| quantised_case::<bf16>(entry, &device))
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// Attention by this entry, and by the one that adds up splits.
fn quantised_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut formats = quantised::FORMATS.into_iter();
    let format = formats.find(|format| format.name() == entry.dtype);
    let case = decode::smoke::<T>(2, entry.head_dim as usize, true);
    let case = Quantised::of(case, format.expect("a format"), true, 3);
    let outcome = case.run(device)?;
    assert_eq!(outcome.entry, entry.name);
    case.judge(&outcome)?;
    Ok(())
}

/// A product of this entry; for the one that adds up splits, of another and then of this.
fn gemm_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (5, 24, 104);
    let rng = &mut StdRng::seed_from_u64(7);
    let problem = GemmProblem::new(T::DTYPE, m, n, k);
    let tile = Some([entry.tile_q as usize, entry.tile_k as usize]);
    let (problem, w) = match entry.variant {
        "nk" => (problem.tile(tile), [n, k]),
        "kn" => (problem.layout(WeightLayout::Kn).tile(tile), [k, n]),
        "any" => (problem.aligned(false), [n, k]),
        "reduce" => (problem.splits(Some(3)), [n, k]),
        other => panic!("a new variant {other} wants a smoke case here"),
    };
    let plan = GemmPlan::new(device, &problem)?;
    assert!(plan.entry() == entry.name || entry.variant == "reduce");
    let (x, w) = (Matrix::random(rng, [m, k], 8), Matrix::random(rng, w, 8));
    gemm::Case::<T>::plain(problem, x, w).check(device)?;
    Ok(())
}

#[test]
fn every_append_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "kv_append") {
            let status = match entry.dtype {
                "f16" => kv::Case::<f16>::random(3).check(&device),
                _ => kv::Case::<bf16>::random(3).check(&device),
            };
            let status =
                status.unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
            assert!(status.is_clean());
        }
    }
}

/// Layers that together launch every entry of a mixture of experts.
#[test]
fn every_moe_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        let mut launched = std::collections::BTreeSet::from(["moe_route", "moe_place"]);
        for entry in catalog::ENTRIES
            .iter()
            .filter(|e| e.kernel == "moe_grouped")
        {
            let of = match entry.dtype {
                "f16" => moe_case::<f16>,
                _ => moe_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
            launched.extend([entry.name, combine_of(entry)]);
        }
        // More pairs than one block sorts.
        let routing = Routing::new(2, 1);
        let problem = MoeProblem::new(DType::F16, routing, 3000, 8, 8);
        let case = moe::Case::<f16>::random(1, problem, 3000, moe::Spread::Even);
        case.check(&device).unwrap();
        launched.insert("moe_count");
        let all = catalog::ENTRIES.iter().map(|entry| entry.name);
        let all: std::collections::BTreeSet<_> = all.filter(|n| n.starts_with("moe_")).collect();
        assert_eq!(launched, all);
    }
}

fn combine_of(entry: &catalog::Entry) -> &'static str {
    match entry.dtype {
        "f16" => "moe_combine_f16",
        _ => "moe_combine_bf16",
    }
}

fn moe_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let layout = match entry.variant {
        "nk" => WeightLayout::Nk,
        _ => WeightLayout::Kn,
    };
    let problem = MoeProblem::new(T::DTYPE, Routing::new(3, 2), 20, 40, 24)
        .layout(layout)
        .tile(Some(entry.tile_q as usize));
    let case = moe::Case::<T>::random(7, problem, 20, moe::Spread::Even);
    case.check(device)?;
    Ok(())
}

#[test]
fn every_int4_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "int4") {
            let of = match entry.dtype {
                "f16" => int4_case::<f16>,
                _ => int4_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// A product of this entry, in two splits.
fn int4_case<T: Scale>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (5, 24, 104);
    let rng = &mut StdRng::seed_from_u64(7);
    for meaning in [Codes::Symmetric, Codes::ZeroPoints] {
        let w = int4_case::weights::<T>(rng, [k, n], Some(32), meaning);
        let product = GemmProblem::new(T::DTYPE, m, n, k)
            .tile(Some([entry.tile_q as usize, entry.tile_k as usize]))
            .splits(Some(2));
        let problem = Int4Problem::new(product, 32, meaning);
        assert_eq!(Int4Plan::new(device, &problem)?.entry(), entry.name);
        let x = Matrix::random(rng, [m, k], 8);
        int4_case::Case::<T>::plain(problem, x, w).check(device)?;
    }
    Ok(())
}

#[test]
fn every_entry_of_blocks_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES.iter().filter(|e| e.kernel == "blocks") {
            let of = match entry.dtype {
                "f16" => blocks_case::<f16>,
                _ => blocks_case::<bf16>,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

/// Products of this entry, in two splits.
fn blocks_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (5, 24, 512);
    let rng = &mut StdRng::seed_from_u64(7);
    let formats: &[_] = match entry.variant {
        "4-bit" => &[BlockFormat::Q4_0, BlockFormat::Q4_K],
        _ => &[BlockFormat::Q8_0, BlockFormat::Q6_K],
    };
    for &format in formats {
        let w = blocks_case::weights(rng, format, [k, n]);
        let product = GemmProblem::new(T::DTYPE, m, n, k).splits(Some(2));
        let problem = BlockProblem::new(product, format);
        assert_eq!(BlockPlan::new(device, &problem)?.entry(), entry.name);
        let x = Matrix::random(rng, [m, k], 8);
        blocks_case::Case::<T>::plain(problem, x, w).check(device)?;
    }
    Ok(())
}

#[test]
fn every_elementwise_entry_gives_the_references_result() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for entry in catalog::ENTRIES {
            let of = match (entry.kernel, entry.dtype) {
                ("norm" | "pointwise" | "embed", "f16") => elementwise_case::<f16>,
                ("norm" | "pointwise" | "embed", _) => elementwise_case::<bf16>,
                _ => continue,
            };
            of(entry, &device)
                .unwrap_or_else(|error| panic!("{} on {device}: {error}", entry.name));
        }
    }
}

#[test]
fn the_sampler_gives_the_references_tokens() {
    for backend in BACKENDS {
        let device = emulated(backend);
        for seed in 0..6 {
            let case = sample::Case::random(seed);
            case.check(&device)
                .unwrap_or_else(|error| panic!("case {seed} on {device}: {error}"));
        }
    }
}

fn elementwise_case<T: Float>(
    entry: &'static catalog::Entry,
    device: &Device,
) -> Result<(), Box<dyn std::error::Error>> {
    for seed in 0..6 {
        match entry.kernel {
            "norm" => drop(elementwise::NormCase::<T>::random(seed).check(device)?),
            "pointwise" => drop(elementwise::PointwiseCase::<T>::random(seed).check(device)?),
            _ => elementwise::EmbedCase::random(seed, T::DTYPE).check::<T>(device)?,
        }
    }
    Ok(())
}

#[test]
fn every_kernel_has_a_smoke_case() {
    let kernels: std::collections::BTreeSet<_> =
        catalog::ENTRIES.iter().map(|entry| entry.kernel).collect();
    assert_eq!(
        Vec::from_iter(kernels),
        [
            "blocks",
            "decode",
            "decode_invariant",
            "decode_quantised",
            "embed",
            "gemm",
            "int4",
            "kv_append",
            "kv_copy",
            "kv_gather",
            "merge_states",
            "mla",
            "moe_combine",
            "moe_grouped",
            "moe_permute",
            "moe_route",
            "norm",
            "pointwise",
            "prefill",
            "sample"
        ]
    );
}
