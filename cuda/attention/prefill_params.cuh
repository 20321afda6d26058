// Arguments of the prefill entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"

// Bases are multiples of 16 bytes. Strides count elements, are multiples of 8 and not negative.
//   q, out [total_q, num_heads, head_dim]   k, v [total_k, num_kv_heads, head_dim]
//   lse [num_heads, total_q], or null       cu_seqlens_q, cu_seqlens_k [batch + 1]
#define PREFILL_PARAMS_FIELDS(X)                                                                \
  X(const void*, q)                                                                             \
  X(const void*, k)                                                                             \
  X(const void*, v)                                                                             \
  X(void*, out)                                                                                 \
  X(float*, lse)                   /* natural logarithm; null: not wanted */                    \
  X(const int32_t*, cu_seqlens_q)  /* not trusted */                                            \
  X(const int32_t*, cu_seqlens_k)  /* not trusted */                                            \
  X(Status*, status)               /* never null */                                             \
  X(int64_t, q_stride_token)                                                                    \
  X(int64_t, q_stride_head)                                                                     \
  X(int64_t, k_stride_token)                                                                    \
  X(int64_t, k_stride_head)                                                                     \
  X(int64_t, v_stride_token)                                                                    \
  X(int64_t, v_stride_head)                                                                     \
  X(int64_t, out_stride_token)                                                                  \
  X(int64_t, out_stride_head)                                                                   \
  X(int64_t, lse_stride_head)                                                                   \
  X(int32_t, batch)                                                                             \
  X(int32_t, num_heads)            /* a multiple of num_kv_heads */                             \
  X(int32_t, num_kv_heads)                                                                      \
  X(int32_t, total_q)                                                                           \
  X(int32_t, total_k)                                                                           \
  X(int32_t, max_seqlen_q)                                                                      \
  X(int32_t, causal)               /* 1: query i of n sees keys j <= i + (k_len - q_len) */     \
  X(float, scale_log2)             /* softmax scale · log2(e), finite, > 0 */

struct PrefillParams {
#define PREFILL_PARAMS_DECLARE(type, name) type name;
  PREFILL_PARAMS_FIELDS(PREFILL_PARAMS_DECLARE)
#undef PREFILL_PARAMS_DECLARE
};
