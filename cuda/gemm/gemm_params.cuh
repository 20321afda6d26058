// Arguments of the GEMM entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// What is applied to the accumulated sums, after the bias. Numbers are shared with the host.
enum class Activation : int32_t {
  kNone = 0,
  kRelu = 1,
  kSilu = 2,         // z·sigmoid(z)
  kGeluTanh = 3,     // z/2·(1 + tanh(√(2/π)·(z + 0.044715z³)))
  kGeluErf = 4,      // z/2·(1 + erf(z/√2))
  kClampedSwiglu = 5  // gated only: min(g, 7)·sigmoid(1.702·min(g, 7))·(clamp(u, -7, 7) + 1)
};

// Strides count elements and are not negative.
//   x [m, k]   w, w_up [n, k] or [k, n]   bias, bias_up [n]   residual, y [m, n]
// The nk and kn entries want bases of x and w at multiples of 16 bytes and their strides at multiples of 8, kn also n.
#define GEMM_PARAMS_FIELDS(X)                                                               \
  X(const void*, x)                                                                         \
  X(const void*, w)                                                                         \
  X(const void*, w_up)      /* null: not gated; else y = act(x·w + bias)·(x·w_up + bias_up) */ \
  X(const void*, bias)      /* or null */                                                   \
  X(const void*, bias_up)   /* or null */                                                   \
  X(const void*, residual)  /* added last; or null */                                       \
  X(void*, y)                                                                               \
  X(float*, partial)        /* [splits, m, n], of both products where gated; null: one split */ \
  X(int64_t, x_stride)                                                                      \
  X(int64_t, w_stride)      /* from row to row as stored: along n for [n, k], along k for [k, n] */ \
  X(int64_t, w_step)        /* the other: 1, but for the entry that takes any */            \
  X(int64_t, residual_stride)                                                               \
  X(int64_t, y_stride)                                                                      \
  X(int32_t, m)                                                                             \
  X(int32_t, n)                                                                             \
  X(int32_t, k)                                                                             \
  X(int32_t, splits)        /* of the K tiles, each a range of its own */                   \
  X(int32_t, activation)                                                                    \
  X(int32_t, y_is_f32)

struct GemmParams {
#define GEMM_PARAMS_DECLARE(type, name) type name;
  GEMM_PARAMS_FIELDS(GEMM_PARAMS_DECLARE)
#undef GEMM_PARAMS_DECLARE
};
