//! Writes `catalog.rs`, which `src/catalog.rs` includes.

use std::fmt::Write;

use crate::kernels::declaration::Declaration;
use crate::kernels::info::Info;

/// An entry with its text.
pub struct Row {
    /// How it was declared.
    pub entry: Declaration,
    /// What its text says about it.
    pub info: Info,
    /// Variable that names the folder of the text.
    pub folder: &'static str,
    /// The text's file in that folder.
    pub path: String,
}

/// The table as a Rust expression.
pub fn generate(rows: &[Row]) -> String {
    let mut source = "&[\n".to_owned();
    for Row {
        entry,
        info,
        folder,
        path,
    } in rows
    {
        let target = entry.capability().unwrap_or_default();
        let version = entry.version().unwrap_or_default();
        write!(
            source,
            "Entry {{
                name: {:?},
                kernel: {:?},
                ptx: include_str!(concat!(env!({folder:?}), \"/{path}\")),
                target: {target},
                ptx_version: {version:?},
                dtype: {:?},
                head_dim: {},
                v_dim: {},
                variant: {:?},
                tile_q: {},
                tile_k: {},
                stages: {},
                threads: {},
                smem_bytes: {},
                param_bytes: {},
                param_offsets: &{:?},
            }},\n",
            entry.name,
            entry.kernel,
            entry.dtype,
            entry.head_dim,
            entry.v_dim,
            entry.variant,
            info.tile_q,
            info.tile_k,
            info.stages,
            info.threads,
            info.smem_bytes,
            info.param_bytes,
            info.param_offsets,
        )
        .expect("a String takes everything");
    }
    source + "]\n"
}
