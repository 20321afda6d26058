// Arguments of the merge_states entry, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// An address or a stride for each state.
struct MergeList {
  uint64_t of[16];
};

// Numbers are shared with the host.
enum class MergeType : int32_t { kF16 = 0, kBf16 = 1, kF32 = 2 };

// Bases of rows are multiples of 16 bytes; strides count elements, are whole multiples of 16 bytes and not negative. Log-sum-
// exps are natural logarithms.
#define MERGE_PARAMS_FIELDS(X)                                                                              \
  X(MergeList, states)              /* [tokens, heads, dim] of type in_type */                              \
  X(MergeList, lses)                /* [heads, tokens] */                                                   \
  X(MergeList, strides_token)                                                                               \
  X(MergeList, strides_head)                                                                                \
  X(MergeList, lse_strides_head)                                                                            \
  X(void*, out)                     /* [tokens, heads, dim] of type out_type */                             \
  X(float*, lse)                    /* [heads, tokens], or null */                                          \
  X(int64_t, out_stride_token)                                                                              \
  X(int64_t, out_stride_head)                                                                               \
  X(int64_t, lse_stride_head)                                                                               \
  X(int32_t, num_states)                                                                                    \
  X(int32_t, tokens)                                                                                        \
  X(int32_t, heads)                                                                                         \
  X(int32_t, dim)                   /* a multiple of 8 */                                                   \
  X(int32_t, lanes_shift)           /* log2 of the lanes of a row: at least one for each chunk, or 32 */     \
  X(int32_t, in_type)                                                                                       \
  X(int32_t, out_type)                                                                                      \
  X(int32_t, rows)                  /* tokens · heads */

struct MergeParams {
#define MERGE_PARAMS_DECLARE(type, name) type name;
  MERGE_PARAMS_FIELDS(MERGE_PARAMS_DECLARE)
#undef MERGE_PARAMS_DECLARE
};
