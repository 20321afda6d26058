// Arguments of the pointwise entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// What becomes of an element a of the first operand and b of the second. Numbers are shared with the host.
enum class PointwiseOp : int32_t {
  kScale = 0,  // act(a)
  kGate = 1,   // act(a) · b
  kAdd = 2     // act(a) + b
};

// Strides count elements and are not negative. Rows begin at multiples of 16 bytes.
#define POINTWISE_PARAMS_FIELDS(X)                                                                                   \
  X(const void*, a)            /* [rows, dim] */                                                                     \
  X(const void*, b)            /* the same; not read by kScale */                                                    \
  X(void*, y)                  /* the same; may be a */                                                              \
  X(int64_t, a_stride)                                                                                               \
  X(int64_t, b_stride)                                                                                               \
  X(int64_t, y_stride)                                                                                               \
  X(int32_t, chunks)           /* of 8 elements, of all rows */                                                      \
  X(int32_t, chunks_of_row)    /* not 0 */                                                                           \
  X(int32_t, dim)                                                                                                    \
  X(int32_t, op)                                                                                                     \
  X(int32_t, activation)       /* Activation of gemm_params.cuh */                                                    \
  X(float, factor)             /* times everything */

struct PointwiseParams {
#define POINTWISE_PARAMS_DECLARE(type, name) type name;
  POINTWISE_PARAMS_FIELDS(POINTWISE_PARAMS_DECLARE)
#undef POINTWISE_PARAMS_DECLARE
};
