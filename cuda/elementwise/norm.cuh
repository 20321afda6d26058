// norm: y = h · weight / √(mean(h²) + eps), row by row, where h is x, or residual + x, which is written back  [RMSNorm]
//
// Shapes   x, residual, y [tokens, heads, dim]; a row is a head of a token. See norm_params.cuh
// Grid     (rows / rows of a block)   Block 1024: 1 to 1024 threads for a row, a power of two that dim alone decides
// Lanes    thread t of a row has chunks t, t + threads of a row, … of 8 elements, 16 bytes: at most 2, kept in registers,
//          so that every byte is read once
// Smem     the sum of each warp, where a row has several
// Hazards  H1 a thread without a row still comes to the barrier: nobody returns early
//          In place a thread reads all that it will write before it writes any of it, and no other thread's elements
// Numerics residual + x is rounded to the elements' type before it is squared: the same bits as adding first. Else f32:
//          squares are summed in an order that dim alone decides; one rounding at the end
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "elementwise/chunk.cuh"
#include "elementwise/norm_params.cuh"

namespace elementwise {

template <fragment::Element kElement_>
struct NormConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kThreads = 1024, kMost = 2;  // chunks of a thread
  static constexpr int kTileQ = 1, kTileK = kThreads * kMost * kChunk, kStages = 1;  // the longest row
  static constexpr uint32_t kSmemBytes = kThreads / 32 * sizeof(float);
};

// The sum over the threads of a row. CTA-collective.
template <int kMostWarps>
__device__ __forceinline__ float row_sum(float sum, int lanes_shift, float* of_warps) {
#pragma unroll
  for (int step = 0; step < 5; ++step) {
    if (step < lanes_shift) sum += ptx::shfl_bfly(sum, 1 << step);
  }
  if (lanes_shift <= 5) return sum;
  const int warp = threadIdx.x / 32, warps = 1 << (lanes_shift - 5);
  if (threadIdx.x % 32 == 0) of_warps[warp] = sum;
  __syncthreads();  // H1
  const int lane = threadIdx.x % 32;
  sum = lane < warps ? of_warps[(warp & -warps) + lane] : 0.0f;
#pragma unroll
  for (int mask = 1; mask < kMostWarps; mask *= 2) sum += ptx::shfl_bfly(sum, mask);
  return sum;
}

// The kernel.
template <class C>
__device__ __forceinline__ void norm(const NormParams& p) {
  extern __shared__ __align__(16) float of_warps[];
  const int lanes = 1 << p.lanes_shift, thread = threadIdx.x & (lanes - 1);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (C::kThreads >> p.lanes_shift) + (threadIdx.x >> p.lanes_shift);
  const int64_t token = row / p.heads, head = row - token * p.heads;
  const auto exist = [&](int i) { return row < p.rows ? p.dim - (i * lanes + thread) * kChunk : 0; };
  const auto of = [&](const void* base, int64_t stride_token, int64_t stride_head) {
    return static_cast<const uint16_t*>(base) + token * stride_token + head * stride_head + thread * kChunk;
  };
  const uint16_t* x = of(p.x, p.x_stride_token, p.x_stride_head);
  uint16_t* residual = const_cast<uint16_t*>(of(p.residual, p.residual_stride_token, p.residual_stride_head));
  uint16_t* y = const_cast<uint16_t*>(of(p.y, p.y_stride_token, p.y_stride_head));

  Packed h[C::kMost] = {}, summand[C::kMost] = {};
#pragma unroll
  for (int i = 0; i < C::kMost; ++i) {
    if (exist(i) <= 0) break;
    h[i] = load(x + i * lanes * kChunk, exist(i));
    if (p.residual != nullptr) summand[i] = load(residual + i * lanes * kChunk, exist(i));
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < C::kMost; ++i) {
    if (exist(i) <= 0) break;
    Chunk z;
    unpack<C::kElement>(z, h[i]);
    if (p.residual != nullptr) {
      Chunk before;
      unpack<C::kElement>(before, summand[i]);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) z[j] += before[j];
      h[i] = pack<C::kElement>(z);
      store(residual + i * lanes * kChunk, h[i], exist(i));
      unpack<C::kElement>(z, h[i]);
    }
#pragma unroll
    for (int j = 0; j < kChunk; ++j) sum = fmaf(z[j], z[j], sum);
  }
  const float factor = rsqrtf(fmaf(row_sum<C::kThreads / 32>(sum, p.lanes_shift, of_warps), p.mean_factor, p.eps));

#pragma unroll
  for (int i = 0; i < C::kMost; ++i) {
    if (exist(i) <= 0) break;
    const int at = (i * lanes + thread) * kChunk;
    Chunk z, weight;
    unpack<C::kElement>(z, h[i]);
    if (p.weight == nullptr) {
#pragma unroll
      for (int j = 0; j < kChunk; ++j) weight[j] = 0.0f;
    } else if (p.weight_is_f32) {
      load_f32(weight, static_cast<const float*>(p.weight) + at, exist(i));
    } else {
      unpack<C::kElement>(weight, load(static_cast<const uint16_t*>(p.weight) + at, exist(i)));
    }
#pragma unroll
    for (int j = 0; j < kChunk; ++j) z[j] = z[j] * factor * (weight[j] + p.weight_offset);
    store(y + i * lanes * kChunk, pack<C::kElement>(z), exist(i));
  }
}

}  // namespace elementwise
