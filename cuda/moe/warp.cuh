// What the lanes of a warp find out together, and numbers that order floats.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"

namespace moe {

// redux: the largest, the smallest of all lanes' values.
__device__ __forceinline__ uint32_t warp_max(uint32_t value) { return __reduce_max_sync(0xffffffffu, value); }
__device__ __forceinline__ uint32_t warp_min(uint32_t value) { return __reduce_min_sync(0xffffffffu, value); }

// The sum over all lanes, added in one order.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += ptx::shfl_bfly(value, mask);
  return value;
}

// The sum over this lane and those below it.
__device__ __forceinline__ int prefix_sum(int value, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

// Unsigned numbers in the order of floats that are not NaN; zeros of both signs are equal; never 0.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_order_key(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

}  // namespace moe
