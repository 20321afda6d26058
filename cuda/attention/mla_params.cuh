// Arguments of the MLA entries and of the entry that merges their splits, one struct by value. Mirrored by the host; the
// layouts are compared by a test.
#pragma once

#include <cstdint>

#include "attention/decode_params.cuh"

// `decode` means what it means to decode, without options, but that one latent row and one rotary row of a token are the
// key of all heads, and the latent its value too: in `decode.attention`
//   q [total_q, num_heads, 512]   out [total_q, num_heads, 512]   num_kv_heads 1
//   k latents, [num_pages, page_size, 512]                        v rotary keys, [num_pages, page_size, 64]
// and partial results are of as many rows as an item has.
#define MLA_PARAMS_FIELDS(X)                                                 \
  X(DecodeParams, decode)                                                    \
  X(const void*, q_rope)         /* [total_q, num_heads, 64]; strides as q */ \
  X(int64_t, q_rope_stride_token)                                            \
  X(int64_t, q_rope_stride_head)

struct MlaParams {
#define MLA_PARAMS_DECLARE(type, name) type name;
  MLA_PARAMS_FIELDS(MLA_PARAMS_DECLARE)
#undef MLA_PARAMS_DECLARE
};
