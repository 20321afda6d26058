// Arguments of the norm entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// Strides count elements and are not negative. Rows begin at multiples of 16 bytes.
#define NORM_PARAMS_FIELDS(X)                                                                                        \
  X(const void*, x)            /* [tokens, heads, dim] */                                                            \
  X(void*, residual)           /* the same, to which x is added and which is then normalised; null: x is */          \
  X(const void*, weight)       /* [dim]; null: all 1 */                                                              \
  X(void*, y)                  /* [tokens, heads, dim]; may be x */                                                  \
  X(int64_t, x_stride_token)                                                                                         \
  X(int64_t, x_stride_head)                                                                                          \
  X(int64_t, residual_stride_token)                                                                                  \
  X(int64_t, residual_stride_head)                                                                                   \
  X(int64_t, y_stride_token)                                                                                         \
  X(int64_t, y_stride_head)                                                                                          \
  X(int32_t, rows)             /* tokens · heads */                                                                  \
  X(int32_t, heads)                                                                                                  \
  X(int32_t, dim)                                                                                                    \
  X(int32_t, lanes_shift)      /* log2 of the threads of a row: with 2 chunks each, enough of them */                \
  X(int32_t, weight_is_f32)    /* else of the elements' type */                                                      \
  X(float, weight_offset)      /* added to the weights: 1 as Gemma has it */                                         \
  X(float, eps)                                                                                                      \
  X(float, mean_factor)        /* 1 / dim */

struct NormParams {
#define NORM_PARAMS_DECLARE(type, name) type name;
  NORM_PARAMS_FIELDS(NORM_PARAMS_DECLARE)
#undef NORM_PARAMS_DECLARE
};
