//! The kernel's parameter: `cuda/attention/prefill_params.cuh`, compared field by field with the
//! PTX by tests/abi.rs.

use bytemuck::{Pod, Zeroable};

macro_rules! params {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
        #[repr(C)]
        #[allow(missing_docs)] // Documented where the kernel declares them.
        pub struct $name { $(pub $field: $ty,)* }

        impl $name {
            /// Every field and its offset, in order.
            pub const FIELDS: &[(&str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field)),)*];
        }
    };
}

params! {
    /// What a prefill entry is given, by value. Public for tests of the binary interface only.
    PrefillParams {
        q: u64,
        k: u64,
        v: u64,
        out: u64,
        lse: u64,
        cu_seqlens_q: u64,
        cu_seqlens_k: u64,
        status: u64,
        q_stride_token: i64,
        q_stride_head: i64,
        k_stride_token: i64,
        k_stride_head: i64,
        v_stride_token: i64,
        v_stride_head: i64,
        out_stride_token: i64,
        out_stride_head: i64,
        lse_stride_head: i64,
        batch: i32,
        num_heads: i32,
        num_kv_heads: i32,
        total_q: i32,
        total_k: i32,
        max_seqlen_q: i32,
        causal: i32,
        scale_log2: f32,
        seqlens_k: u64,
        page_table: u64,
        page_indptr: u64,
        alibi_slopes: u64,
        sinks: u64,
        mask: u64,
        mask_offsets: u64,
        k_stride_page: i64,
        v_stride_page: i64,
        page_table_stride: i64,
        mask_bytes: i64,
        page_size: i32,
        page_reciprocal: u32,
        num_pages: i32,
        page_table_len: i32,
        head_dim: i32,
        v_dim: i32,
        window_left: i32,
        window_right: i32,
        softcap_scale: f32,
        exact_softcap: i32,
    }
}
