// Arguments of the prefill entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"

// Bases are multiples of 16 bytes. Strides count elements, are multiples of 8 and not negative.
//   q [total_q, num_heads, head_dim]   out [total_q, num_heads, v_dim]   lse [num_heads, total_q], or null
//   ragged: k, v [total_k, num_kv_heads, head_dim or v_dim]              cu_seqlens_q, cu_seqlens_k [batch + 1]
//   paged:  k, v [num_pages, page_size, num_kv_heads, ...]               seqlens_k [batch]
//           page_table [batch, page_table_stride], or with page_indptr [batch + 1] one list, [page_table_len]
//   alibi_slopes, sinks [num_heads]
//   mask: a bit for each query and key, bit i of a byte worth 2^i. Sequence b's begin at byte mask_offsets[b] and are
//         [q_len, k_len] without padding of rows; mask_offsets [batch + 1]
//
// Which entries read what: lean ones the fields up to scale_log2; paged ones those of pages too, instead of cu_seqlens_k;
// full ones everything. "Not trusted" values come from device memory and are checked before they are followed.
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
  X(int32_t, total_k)              /* rows of k, v; paged: the most keys of a sequence, <= 2^30 */ \
  X(int32_t, max_seqlen_q)                                                                      \
  X(int32_t, causal)               /* 1: query i sees keys up to p = i + (k_len - q_len) */     \
  X(float, scale_log2)             /* softmax scale · log2(e), or with a soft-cap cap · log2(e); finite, > 0 */ \
  X(const int32_t*, seqlens_k)     /* not trusted; keys of each sequence; null: ragged   */     \
  X(const uint32_t*, page_table)   /* not trusted */                                            \
  X(const int32_t*, page_indptr)   /* not trusted; null: a row of the table for each sequence */ \
  X(const float*, alibi_slopes)    /* natural units; null: none */                              \
  X(const float*, sinks)           /* logits, natural units; null: none */                      \
  X(const uint8_t*, mask)                                                                       \
  X(const int32_t*, mask_offsets)  /* not trusted; null: no mask */                             \
  X(int64_t, k_stride_page)                                                                     \
  X(int64_t, v_stride_page)                                                                     \
  X(int64_t, page_table_stride)    /* entries from one sequence's row to the next */            \
  X(int64_t, mask_bytes)                                                                        \
  X(int32_t, page_size)            /* >= 1 */                                                   \
  X(uint32_t, page_reciprocal)     /* floor((2^32 - 1) / page_size) */                          \
  X(int32_t, num_pages)            /* ids at or above are invalid */                            \
  X(int32_t, page_table_len)       /* entries of a row, or of the list */                       \
  X(int32_t, head_dim)             /* multiples of 8, at most what the entry has room for */    \
  X(int32_t, v_dim)                                                                             \
  X(int32_t, window_left)          /* query at p sees keys from p - window_left on; -1: all */  \
  X(int32_t, window_right)         /* ... and up to p + window_right; -1: all. p as for causal */ \
  X(float, softcap_scale)          /* softmax scale / cap; 0: no soft-cap */                    \
  X(int32_t, exact_softcap)        /* 1: without tanh.approx */

struct PrefillParams {
#define PREFILL_PARAMS_DECLARE(type, name) type name;
  PREFILL_PARAMS_FIELDS(PREFILL_PARAMS_DECLARE)
#undef PREFILL_PARAMS_DECLARE
};
