//! The kernels' parameter: `cuda/kv/append_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

crate::params::params! {
    /// A token's rows of one kind. Public for tests of the binary interface only.
    AppendPart {
        input: u64,
        output: u64,
        norm_weight: u64,
        scales: u64,
        in_stride_token: i64,
        in_stride_head: i64,
        out_stride_page: i64,
        out_stride_slot: i64,
        out_stride_head: i64,
        out_stride_group: i64,
        out_stride_element: i64,
        heads: i32,
        dim: i32,
        lanes_shift: i32,
        passes: i32,
        group_shift: i32,
        scale_stride: i32,
        format: i32,
        rotates: i32,
        in_pages: i32,
        transposed: i32,
    }
}

crate::params::params! {
    /// What a `kv_append` entry is given, by value. Public for tests of the binary interface only.
    AppendParams {
        parts: [AppendPart; 3],
        slots: u64,
        positions: u64,
        cosines: u64,
        sines: u64,
        status: u64,
        cosines_stride: i64,
        sines_stride: i64,
        tokens: i32,
        passes: i32,
        num_slots: i32,
        page_size: i32,
        slots_are_64: i32,
        positions_are_64: i32,
        padding: i32,
        max_position: i32,
        rotary_dim: i32,
        pairing: i32,
        table_is_f32: i32,
        table_is_aligned: i32,
        weight_is_f32: i32,
        weight_offset: f32,
        eps: f32,
        mean_factor: f32,
    }
}
