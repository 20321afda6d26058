// Arguments of the moe_grouped entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"
#include "gemm/gemm_params.cuh"

// Strides count elements and are not negative; n and k are multiples of 8, bases of x and w at multiples of 16 bytes, their
// strides at multiples of 8. A pair is a token and a slot, see permute_params.cuh; its place is where `order` has it.
#define GROUPED_PARAMS_FIELDS(X)                                                                             \
  X(const void*, x)          /* [rows, k] */                                                                 \
  X(const void*, w)          /* [here, n, k] or [here, k, n] */                                              \
  X(const void*, w_up)       /* null: not gated */                                                           \
  X(const void*, bias)       /* [here, n]; or null */                                                        \
  X(const void*, bias_up)    /* or null */                                                                   \
  X(void*, y)                /* [splits, rows, n] */                                                         \
  X(const int32_t*, order)   /* [pairs] */                                                                   \
  X(const int32_t*, offsets) /* [here + 1] */                                                                \
  X(Status*, status)                                                                                         \
  X(int64_t, x_stride)                                                                                       \
  X(int64_t, w_expert)       /* from expert to expert */                                                     \
  X(int64_t, w_stride)       /* from row to row as stored */                                                 \
  X(int64_t, bias_expert)                                                                                    \
  X(int64_t, bias_step)      /* from column to column */                                                     \
  X(int64_t, y_stride)                                                                                       \
  X(int64_t, y_split)                                                                                        \
  X(int32_t, pairs)                                                                                          \
  X(int32_t, here)                                                                                           \
  X(int32_t, n)                                                                                              \
  X(int32_t, k)                                                                                              \
  X(int32_t, splits)         /* of the K tiles; more than one: not gated, no activation, y in f32 */         \
  X(int32_t, activation)                                                                                     \
  X(int32_t, slots)          /* row of x: pair / slots; 0: the place */                                      \
  X(int32_t, scatter)        /* row of y: the pair; 0: the place */                                          \
  X(int32_t, y_is_f32)                                                                                       \
  X(int32_t, reserved)

struct GroupedParams {
#define GROUPED_PARAMS_DECLARE(type, name) type name;
  GROUPED_PARAMS_FIELDS(GROUPED_PARAMS_DECLARE)
#undef GROUPED_PARAMS_DECLARE
};
