//! Every kernel entry that this build carries, with its text and what the text says about itself.
//!
//! The table is written by `build.rs` from `cuda/kernels.toml` and the PTX. Tiles, threads, shared
//! memory and the parameter's layout are read out of the PTX, where the kernel put them: nothing
//! here is a second copy that could drift.

/// One kernel entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name of the entry in its module.
    pub name: &'static str,
    /// Family: which wrapper launches it, e.g. `prefill`.
    pub kernel: &'static str,
    /// The module: PTX text that holds this one entry.
    pub ptx: &'static str,
    /// Lowest compute capability that runs it, times ten: 80 for `sm_80`.
    pub target: u32,
    /// PTX version that the text declares: the driver must know at least this one.
    pub ptx_version: (u32, u32),
    /// Element type of the operands, e.g. `bf16`. `decode_quantised`: of the cache.
    pub dtype: &'static str,
    /// Head dimension that it is compiled for; 0 where the kernel has none.
    pub head_dim: u32,
    /// Head dimension of the values that it is compiled for; 0 where the kernel has none.
    pub v_dim: u32,
    /// Which of a family's entries of one type and head dimension. `prefill`: `lean` for ragged
    /// keys and no options, `paged` for paged keys and no options, `full` for everything and head
    /// dimensions up to the entry's. `decode`: `lean` without options, `full` likewise, `merge` to add
    /// up splits. `decode_quantised`: `full`. `decode_invariant`: `full`, or `merge` likewise. `mla`:
    /// none, or `merge` likewise. `gemm`: `nk` and `kn` for weights stored so, `any` for any strides,
    /// `reduce` to add up splits. `moe_grouped`: `nk` and `kn`. `moe_permute`: `count` and `place`, its
    /// two passes.
    pub variant: &'static str,
    /// Query rows (output rows) of a block.
    pub tile_q: u32,
    /// Key rows of a tile, or rows of weights: of the operand that meets the first.
    pub tile_k: u32,
    /// Tiles in flight.
    pub stages: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub smem_bytes: u32,
    /// Size of the one parameter, a struct by value.
    pub param_bytes: u32,
    /// Offset of each field of the parameter, in the order of its declaration.
    pub param_offsets: &'static [u32],
}

/// The entry of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// Every entry, in the order of the names.
pub static ENTRIES: &[Entry] = include!(concat!(env!("OUT_DIR"), "/catalog.rs"));
