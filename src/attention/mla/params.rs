//! The kernels' parameter: `cuda/attention/mla_params.cuh`, compared field by field with the PTX by
//! tests/abi.rs.

use crate::attention::decode::DecodeParams;

crate::params::params! {
    /// What an MLA entry is given, by value. Public for tests of the binary interface only.
    MlaParams {
        decode: DecodeParams,
        q_rope: u64,
        q_rope_stride_token: i64,
        q_rope_stride_head: i64,
    }
}
