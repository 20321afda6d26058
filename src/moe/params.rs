//! The kernels' parameters: `cuda/moe/*_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

crate::params::params! {
    /// What `moe_route` is given, by value. Public for tests of the binary interface only.
    RouteParams {
        logits: u64,
        bias: u64,
        shared_gate: u64,
        ids: u64,
        weights: u64,
        status: u64,
        logits_stride: i64,
        shared_gate_stride: i64,
        tokens: i32,
        experts: i32,
        top_k: i32,
        shared: i32,
        groups: i32,
        top_groups: i32,
        group_by_two: i32,
        logits_type: i32,
        scoring: i32,
        renormalize: i32,
        scale: f32,
        reserved: i32,
    }
}

crate::params::params! {
    /// What `moe_count` and `moe_place` are given, by value. Public for tests of the binary
    /// interface only.
    PermuteParams {
        ids: u64,
        order: u64,
        offsets: u64,
        counts: u64,
        status: u64,
        pairs: i32,
        slots: i32,
        per_block: i32,
        routed: i32,
        shared: i32,
        first: i32,
        local: i32,
        reserved: i32,
    }
}

crate::params::params! {
    /// What a `moe_grouped` entry is given, by value. Public for tests of the binary interface only.
    GroupedParams {
        x: u64,
        w: u64,
        w_up: u64,
        bias: u64,
        bias_up: u64,
        y: u64,
        order: u64,
        offsets: u64,
        status: u64,
        x_stride: i64,
        w_expert: i64,
        w_stride: i64,
        bias_expert: i64,
        bias_step: i64,
        y_stride: i64,
        y_split: i64,
        pairs: i32,
        here: i32,
        n: i32,
        k: i32,
        splits: i32,
        activation: i32,
        slots: i32,
        scatter: i32,
        y_is_f32: i32,
        reserved: i32,
    }
}

crate::params::params! {
    /// What a `moe_combine` entry is given, by value. Public for tests of the binary interface only.
    CombineParams {
        parts: u64,
        ids: u64,
        weights: u64,
        y: u64,
        y_stride: i64,
        tokens: i32,
        slots: i32,
        hidden: i32,
        splits: i32,
        parts_are_f32: i32,
        routed: i32,
        shared: i32,
        first: i32,
        local: i32,
        reserved: i32,
    }
}
