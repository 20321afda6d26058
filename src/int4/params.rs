//! The kernels' parameter: `cuda/int4/int4_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

use crate::gemm::GemmParams;

crate::params::params! {
    /// What an INT4 entry is given, by value. Public for tests of the binary interface only.
    Int4Params {
        gemm: GemmParams,
        scales: u64,
        scales_up: u64,
        zeros: u64,
        zeros_up: u64,
        groups_per_tile: i32,
        tiles_per_group: i32,
    }
}
