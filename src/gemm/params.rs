//! The kernels' parameter: `cuda/gemm/gemm_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

crate::params::params! {
    /// What a GEMM entry is given, by value. Public for tests of the binary interface only.
    GemmParams {
        x: u64,
        w: u64,
        w_up: u64,
        bias: u64,
        bias_up: u64,
        residual: u64,
        y: u64,
        partial: u64,
        x_stride: i64,
        w_stride: i64,
        w_step: i64,
        residual_stride: i64,
        y_stride: i64,
        m: i32,
        n: i32,
        k: i32,
        splits: i32,
        activation: i32,
        y_is_f32: i32,
    }
}
