//! The kernels' parameter: `cuda/attention/decode_params.cuh`, compared field by field with the PTX
//! by tests/abi.rs.

use crate::attention::prefill::PrefillParams;

crate::params::params! {
    /// What a decode entry is given, by value. Public for tests of the binary interface only.
    DecodeParams {
        attention: PrefillParams,
        partials: u64,
        splits: u64,
        q_len: i32,
        partial_dim: i32,
    }
}
