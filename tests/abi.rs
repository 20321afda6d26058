//! The binary interface: what the PTX declares, what the catalog says, what Rust passes.
//!
//! The numbers are read out of the PTX text here, by a reader that shares nothing with the one
//! that made the catalog.

use std::mem::{align_of, size_of};

use infer_kernels::attention::decode::{DecodeParams, InvariantParams, QuantisedDecodeParams};
use infer_kernels::attention::merge::MergeParams;
use infer_kernels::attention::mla::MlaParams;
use infer_kernels::attention::prefill::PrefillParams;
use infer_kernels::blocks::BlockParams;
use infer_kernels::catalog::{ENTRIES, Entry};
use infer_kernels::elementwise::{EmbedParams, NormParams, PointwiseParams, SampleParams};
use infer_kernels::gemm::GemmParams;
use infer_kernels::int4::Int4Params;
use infer_kernels::kv::{AppendParams, AppendPart, CopyParams, GatherParams, GatherPart};
use infer_kernels::moe::{CombineParams, GroupedParams, PermuteParams, RouteParams};

/// What follows `before` in the entry's PTX, up to `after`.
fn between<'a>(entry: &'a Entry, before: &str, after: &str) -> &'a str {
    let (_, rest) = entry.ptx.split_once(before).unwrap_or_else(|| {
        panic!("{}: no `{before}` in its PTX", entry.name);
    });
    rest.split_once(after)
        .unwrap_or_else(|| panic!("{}: no `{after}`", entry.name))
        .0
}

fn number(text: &str) -> u32 {
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

/// The words of the entry's information array.
fn info(entry: &Entry) -> Vec<u32> {
    let declaration = format!(" .b8 {}_info[", entry.name);
    let length = number(between(entry, &declaration, "]")) as usize;
    let initialiser = between(entry, &format!("{declaration}{length}] = {{"), "}");
    let mut bytes: Vec<u8> = initialiser
        .split(',')
        .map(|byte| number(byte).try_into().expect("a byte"))
        .collect();
    bytes.resize(length, 0); // Trailing zeros need not be written.
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

#[test]
fn the_catalog_repeats_the_ptx() {
    assert!(!ENTRIES.is_empty());
    for entry in ENTRIES {
        let words = info(entry);
        let name = entry.name;
        assert_eq!(words[0], 1, "{name}: version of the information array");
        let told = [
            entry.smem_bytes,
            entry.threads,
            entry.tile_q,
            entry.tile_k,
            entry.stages,
            entry.param_bytes,
        ];
        assert_eq!(words[1..7], told, "{name}");
        assert_eq!(
            words[7] as usize,
            words.len() - 8,
            "{name}: number of fields"
        );
        assert_eq!(words[8..], *entry.param_offsets, "{name}");

        let threads = between(entry, ".maxntid ", ",");
        assert_eq!(number(threads), entry.threads, "{name}");
        let declared = between(entry, &format!(" .b8 {name}_param_0["), "]");
        assert_eq!(number(declared), entry.param_bytes, "{name}");
        assert_eq!(
            number(between(entry, "\n.target sm_", "\n")),
            entry.target,
            "{name}"
        );
        let (major, minor) = entry.ptx_version;
        assert_eq!(
            between(entry, "\n.version ", "\n"),
            format!("{major}.{minor}"),
            "{name}"
        );
        assert!(
            entry.smem_bytes <= 163 << 10,
            "{name}: more shared memory than an A100 has"
        );
    }
}

/// A family's parameter as Rust has it.
struct Passed {
    kernel: &'static str,
    fields: &'static [(&'static str, usize)],
    size: usize,
    align: usize,
    header: &'static str,
}

const PASSED: &[Passed] = &[
    Passed {
        kernel: "prefill",
        fields: PrefillParams::FIELDS,
        size: size_of::<PrefillParams>(),
        align: align_of::<PrefillParams>(),
        header: include_str!("../cuda/attention/prefill_params.cuh"),
    },
    Passed {
        kernel: "decode",
        fields: DecodeParams::FIELDS,
        size: size_of::<DecodeParams>(),
        align: align_of::<DecodeParams>(),
        header: include_str!("../cuda/attention/decode_params.cuh"),
    },
    Passed {
        kernel: "mla",
        fields: MlaParams::FIELDS,
        size: size_of::<MlaParams>(),
        align: align_of::<MlaParams>(),
        header: include_str!("../cuda/attention/mla_params.cuh"),
    },
    Passed {
        kernel: "decode_quantised",
        fields: QuantisedDecodeParams::FIELDS,
        size: size_of::<QuantisedDecodeParams>(),
        align: align_of::<QuantisedDecodeParams>(),
        header: include_str!("../cuda/attention/decode_quantised_params.cuh"),
    },
    Passed {
        kernel: "decode_invariant",
        fields: InvariantParams::FIELDS,
        size: size_of::<InvariantParams>(),
        align: align_of::<InvariantParams>(),
        header: include_str!("../cuda/attention/decode_invariant_params.cuh"),
    },
    Passed {
        kernel: "int4",
        fields: Int4Params::FIELDS,
        size: size_of::<Int4Params>(),
        align: align_of::<Int4Params>(),
        header: include_str!("../cuda/int4/int4_params.cuh"),
    },
    Passed {
        kernel: "blocks",
        fields: BlockParams::FIELDS,
        size: size_of::<BlockParams>(),
        align: align_of::<BlockParams>(),
        header: include_str!("../cuda/blocks/blocks_params.cuh"),
    },
    Passed {
        kernel: "gemm",
        fields: GemmParams::FIELDS,
        size: size_of::<GemmParams>(),
        align: align_of::<GemmParams>(),
        header: include_str!("../cuda/gemm/gemm_params.cuh"),
    },
    Passed {
        kernel: "kv_append",
        fields: AppendParams::FIELDS,
        size: size_of::<AppendParams>(),
        align: align_of::<AppendParams>(),
        header: include_str!("../cuda/kv/append_params.cuh"),
    },
    // A part of the parameter above, as another one below: named by no entry.
    Passed {
        kernel: "part of kv_append",
        fields: AppendPart::FIELDS,
        size: size_of::<AppendPart>(),
        align: align_of::<AppendPart>(),
        header: include_str!("../cuda/kv/append_part.cuh"),
    },
    Passed {
        kernel: "moe_route",
        fields: RouteParams::FIELDS,
        size: size_of::<RouteParams>(),
        align: align_of::<RouteParams>(),
        header: include_str!("../cuda/moe/route_params.cuh"),
    },
    Passed {
        kernel: "moe_permute",
        fields: PermuteParams::FIELDS,
        size: size_of::<PermuteParams>(),
        align: align_of::<PermuteParams>(),
        header: include_str!("../cuda/moe/permute_params.cuh"),
    },
    Passed {
        kernel: "moe_grouped",
        fields: GroupedParams::FIELDS,
        size: size_of::<GroupedParams>(),
        align: align_of::<GroupedParams>(),
        header: include_str!("../cuda/moe/grouped_params.cuh"),
    },
    Passed {
        kernel: "moe_combine",
        fields: CombineParams::FIELDS,
        size: size_of::<CombineParams>(),
        align: align_of::<CombineParams>(),
        header: include_str!("../cuda/moe/combine_params.cuh"),
    },
    Passed {
        kernel: "kv_copy",
        fields: CopyParams::FIELDS,
        size: size_of::<CopyParams>(),
        align: align_of::<CopyParams>(),
        header: include_str!("../cuda/kv/copy_params.cuh"),
    },
    Passed {
        kernel: "kv_gather",
        fields: GatherParams::FIELDS,
        size: size_of::<GatherParams>(),
        align: align_of::<GatherParams>(),
        header: include_str!("../cuda/kv/gather_params.cuh"),
    },
    Passed {
        kernel: "part of kv_gather",
        fields: GatherPart::FIELDS,
        size: size_of::<GatherPart>(),
        align: align_of::<GatherPart>(),
        header: include_str!("../cuda/kv/gather_part.cuh"),
    },
    Passed {
        kernel: "merge_states",
        fields: MergeParams::FIELDS,
        size: size_of::<MergeParams>(),
        align: align_of::<MergeParams>(),
        header: include_str!("../cuda/kv/merge_params.cuh"),
    },
    Passed {
        kernel: "sample",
        fields: SampleParams::FIELDS,
        size: size_of::<SampleParams>(),
        align: align_of::<SampleParams>(),
        header: include_str!("../cuda/elementwise/sample_params.cuh"),
    },
    Passed {
        kernel: "norm",
        fields: NormParams::FIELDS,
        size: size_of::<NormParams>(),
        align: align_of::<NormParams>(),
        header: include_str!("../cuda/elementwise/norm_params.cuh"),
    },
    Passed {
        kernel: "pointwise",
        fields: PointwiseParams::FIELDS,
        size: size_of::<PointwiseParams>(),
        align: align_of::<PointwiseParams>(),
        header: include_str!("../cuda/elementwise/pointwise_params.cuh"),
    },
    Passed {
        kernel: "embed",
        fields: EmbedParams::FIELDS,
        size: size_of::<EmbedParams>(),
        align: align_of::<EmbedParams>(),
        header: include_str!("../cuda/elementwise/embed_params.cuh"),
    },
];

#[test]
fn rust_passes_what_the_kernel_declares() {
    for entry in ENTRIES {
        let name = entry.name;
        let passed = PASSED
            .iter()
            .find(|passed| passed.kernel == entry.kernel)
            .unwrap_or_else(|| panic!("{name}: nothing is known of `{}`", entry.kernel));
        let alignment = between(entry, ".entry ", " .b8 ");
        let (_, alignment) = alignment
            .rsplit_once(".align ")
            .expect("the parameter's alignment");
        assert_eq!(number(alignment) as usize, passed.align, "{name}");
        assert_eq!(entry.param_bytes as usize, passed.size, "{name}");
        let offsets: Vec<u32> = passed.fields.iter().map(|&(_, at)| at as u32).collect();
        assert_eq!(entry.param_offsets, offsets, "{name}");
    }
}

/// Equal offsets do not show that two fields of one size are in the same order: their names do.
#[test]
fn rust_names_the_fields_as_the_kernel_does() {
    for passed in PASSED {
        let names: Vec<&str> = passed
            .header
            .lines()
            .filter_map(|line| line.trim().strip_prefix("X("))
            .filter_map(|line| {
                line.split_once(", ")?
                    .1
                    .split_once(')')
                    .map(|(name, _)| name)
            })
            .collect();
        let fields: Vec<&str> = passed.fields.iter().map(|&(name, _)| name).collect();
        assert_eq!(fields, names, "{}", passed.kernel);
    }
}

/// Where the emulator can load the modules, its reader must agree too.
#[cfg(feature = "emulator")]
#[test]
fn the_emulator_reads_the_same() {
    let emulator = infer_kernels::ptx_emulator::Emulator::new(Default::default());
    for entry in ENTRIES {
        let module = emulator.load(entry.ptx).unwrap();
        let bytes = module
            .symbol_bytes(&format!("{}_info", entry.name))
            .unwrap();
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, info(entry), "{}", entry.name);
        let kernel = module.kernel(entry.name).unwrap().info();
        assert_eq!(kernel.max_threads, Some(entry.threads), "{}", entry.name);
        assert_eq!(kernel.param_bytes, entry.param_bytes, "{}", entry.name);
        assert_eq!(kernel.static_shared, 0, "{}", entry.name);
    }
}
