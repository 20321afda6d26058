//! The kernels' parameter: `cuda/blocks/blocks_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

use crate::gemm::GemmParams;

crate::params::params! {
    /// What an entry of blocks is given, by value. Public for tests of the binary interface only.
    BlockParams {
        gemm: GemmParams,
        scales: u64,
        scales_up: u64,
        kind: i32,
        zero: i32,
    }
}
