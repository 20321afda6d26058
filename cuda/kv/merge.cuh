// merge_states: attention over all keys from attention over parts of them                       [FlashAttention-2, §3.1]
//
//   out = Σ w_i·out_i / Σ w_i,  w_i = exp(lse_i - max lse),  lse = max lse + ln Σ w_i
//
// Shapes   out_i, out [tokens, heads, dim]  lse_i, lse [heads, tokens]; see merge_params.cuh
// Grid     ceil(rows / rows of a block)   Block 128; a lane has 8 elements of a row at a time, or 4 where f32 is among
//          the types: neighbouring lanes then read neighbouring 16 bytes
// Hazards  H1 a state without keys, lse = -∞, is not read at all: its memory may hold anything
//          H2 a row with one state that has keys is copied bit by bit where the types agree; one with none is zero
// Numerics f32, states in their order; no atomics
#pragma once

#include <cmath>
#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "kv/merge_params.cuh"
#include "kv/relaxed.cuh"

namespace kv {

struct MergeConfig {
  static constexpr int kThreads = 128, kTileQ = kThreads / 32, kTileK = 8, kStages = 1;  // rows, elements of a lane, at the least and the most
  static constexpr uint32_t kSmemBytes = 0;
};

// kCount neighbouring elements as they lie in memory: words of one f32 each, or of two 16-bit elements.
template <int kCount>
struct MergeChunk {
  uint32_t word[kCount];

  __device__ __forceinline__ void load(uint64_t base, int64_t element, MergeType type) {
    if (type == MergeType::kF32 || kCount == 8) {
      const uint4 all = ptx::ld_global_v4(base + element * (type == MergeType::kF32 ? 4 : 2));
      word[0] = all.x, word[1] = all.y, word[2] = all.z, word[3] = all.w;
    } else {
      const uint2 all = ptx::ld_global_v2(base + element * 2);
      word[0] = all.x, word[1] = all.y;
    }
  }

  __device__ __forceinline__ void store(void* base, int64_t element, MergeType type) const {
    const uint64_t at = ptx::global_address(base) + element * (type == MergeType::kF32 ? 4 : 2);
    if (type == MergeType::kF32 || kCount == 8) {
      ptx::st_relaxed_v4(at, word[0], word[1], word[2], word[3]);
    } else {
      ptx::st_relaxed_v2(at, word[0], word[1]);
    }
  }

  __device__ __forceinline__ void unpack(float (&x)[kCount], MergeType type) const {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (type == MergeType::kF16) fragment::unpack<fragment::Element::kF16>(word[i], x[2 * i], x[2 * i + 1]);
      if (type == MergeType::kBf16) fragment::unpack<fragment::Element::kBf16>(word[i], x[2 * i], x[2 * i + 1]);
    }
    if (kCount == 4 && type == MergeType::kF32) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) x[i] = __uint_as_float(word[i]);
    }
  }

  __device__ __forceinline__ void pack(const float (&x)[kCount], MergeType type) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (type == MergeType::kF16) word[i] = fragment::pack<fragment::Element::kF16>(x[2 * i], x[2 * i + 1]);
      if (type == MergeType::kBf16) word[i] = fragment::pack<fragment::Element::kBf16>(x[2 * i], x[2 * i + 1]);
    }
    if (kCount == 4 && type == MergeType::kF32) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) word[i] = __float_as_uint(x[i]);
    }
  }
};

// A row by lanes of kCount elements each: 16 bytes of the wider type.
template <int kCount>
__device__ __forceinline__ void merge_row(const MergeParams& p) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;
  const MergeType in_type = static_cast<MergeType>(p.in_type), out_type = static_cast<MergeType>(p.out_type);
  const int lane = threadIdx.x & ((1 << p.lanes_shift) - 1);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (MergeConfig::kThreads >> p.lanes_shift) +
                      (threadIdx.x >> p.lanes_shift);
  if (row >= p.rows) return;
  const int token = static_cast<uint32_t>(row) / p.heads, head = static_cast<uint32_t>(row) - token * p.heads;
  const auto lse_of = [&](int i) {
    return reinterpret_cast<const float*>(p.lses.of[i])[head * p.lse_strides_head.of[i] + token];
  };
  const auto state_of = [&](int i) { return ptx::global_address(reinterpret_cast<const void*>(p.states.of[i])); };
  const auto element_of = [&](int i) { return token * p.strides_token.of[i] + head * p.strides_head.of[i]; };

  float most = -INFINITY, sum = 0.0f;
  int present = 0, last = 0;  // states with keys, and one of them
#pragma unroll 1
  for (int i = 0; i < p.num_states; ++i) {
    const float lse = lse_of(i);
    if (lse == -INFINITY) continue;
    present++, last = i;
    most = lse > most || lse != lse ? lse : most;  // NaN stays
  }
  const auto weight_of = [&](float lse) { return ptx::ex2_approx_ftz((lse - most) * kLog2E); };
  if (present > 1) {
#pragma unroll 1
    for (int i = 0; i < p.num_states; ++i) {
      const float lse = lse_of(i);
      if (lse != -INFINITY) sum += weight_of(lse);
    }
  }
  if (p.lse != nullptr && lane == 0) {
    p.lse[head * p.lse_stride_head + token] = present > 1 ? fmaf(ptx::lg2_approx_ftz(sum), kLn2, most) : most;
  }

  const float factor = present > 1 ? ptx::rcp_approx_ftz(sum) : 1.0f;
  const int64_t out = token * p.out_stride_token + head * p.out_stride_head;
#pragma unroll 1
  for (int at = lane * kCount; at < p.dim; at += kCount << p.lanes_shift) {
    MergeChunk<kCount> chunk = {};
    float x[kCount];
    if (present == 1) {  // H2
      chunk.load(state_of(last), element_of(last) + at, in_type);
      if (in_type != out_type) {
        chunk.unpack(x, in_type);
        chunk.pack(x, out_type);
      }
    } else if (present > 1) {
      float total[kCount] = {};
#pragma unroll 1
      for (int i = 0; i < p.num_states; ++i) {
        const float lse = lse_of(i);
        if (lse == -INFINITY) continue;  // H1
        chunk.load(state_of(i), element_of(i) + at, in_type);
        chunk.unpack(x, in_type);
        const float weight = weight_of(lse) * factor;
#pragma unroll
        for (int j = 0; j < kCount; ++j) total[j] = fmaf(weight, x[j], total[j]);
      }
      chunk.pack(total, out_type);
    }
    chunk.store(p.out, out + at, out_type);
  }
}

// The kernel.
__device__ __forceinline__ void merge(const MergeParams& p) {
  const int32_t f32 = static_cast<int32_t>(MergeType::kF32);
  if (p.in_type == f32 || p.out_type == f32) {
    merge_row<4>(p);
  } else {
    merge_row<8>(p);
  }
}

}  // namespace kv
