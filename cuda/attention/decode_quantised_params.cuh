// Arguments of the decode entries for caches in 8 bits, one struct by value. Mirrored by the host; the layouts are
// compared by a test.
#pragma once

#include <cstdint>

#include "attention/decode_params.cuh"

// What an element of K or V stands for is its scale times what is stored. Strides of K and V count bytes and are multiples
// of 16, as are the head dimensions.
#define QUANTISED_DECODE_PARAMS_FIELDS(X)                                                        \
  X(DecodeParams, decode)                                                                        \
  X(const float*, k_scales)        /* [num_kv_heads], or one for all */                          \
  X(const float*, v_scales)                                                                      \
  X(int32_t, k_scales_stride)      /* from head to head: 1, or 0 */                              \
  X(int32_t, v_scales_stride)                                                                    \
  X(int32_t, is_bf16)              /* queries and output; else they are f16 */                   \
  X(int32_t, pad)                  /* zero */

struct QuantisedDecodeParams {
#define QUANTISED_DECODE_PARAMS_DECLARE(type, name) type name;
  QUANTISED_DECODE_PARAMS_FIELDS(QUANTISED_DECODE_PARAMS_DECLARE)
#undef QUANTISED_DECODE_PARAMS_DECLARE
  __device__ __forceinline__ operator const DecodeParams&() const { return decode; }
};
