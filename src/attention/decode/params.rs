//! The kernels' parameters: `cuda/attention/decode_params.cuh` and others, compared field by field with the PTX
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

crate::params::params! {
    /// What a decode entry for caches in 8 bits is given: `cuda/attention/decode_quantised_params.cuh`.
    QuantisedDecodeParams {
        decode: DecodeParams,
        k_scales: u64,
        v_scales: u64,
        k_scales_stride: i32,
        v_scales_stride: i32,
        is_bf16: i32,
        pad: i32,
    }
}

crate::params::params! {
    /// What a batch-invariant decode entry is given: `cuda/attention/decode_invariant_params.cuh`.
    InvariantParams {
        decode: DecodeParams,
        splits: u64,
        places: i32,
        pad: i32,
    }
}
