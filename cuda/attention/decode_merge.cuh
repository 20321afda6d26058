// decode_merge: adds up what several decode blocks have each done of an item, in the order of the keys.
//
// Grid     (blocks of the decode launch, 4): block (c, y) merges rows 4y..4y+3 of the item that decode block c left behind,
//          if there is one           Block 128 = 4 warps, a row each; a lane has four neighbouring columns of each 128
// Reads    every partial result once: parts · rows · (Dv + 2) floats
// Numerics f32, one fused multiply-add for each element and part; the order is that of the keys, so that repeats give the
//          same bits. The sink counts here, once
#pragma once

#include <cstdint>

#include "attention/decode_params.cuh"
#include "attention/decode_result.cuh"
#include "common/ptx.cuh"

namespace decode {

template <fragment::Element kElement_>
struct MergeConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTileQ = 16;
  static constexpr int kTileK = 0;
  static constexpr int kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

template <class C>
__device__ __forceinline__ void merge(const DecodeParams& params) {
  const PrefillParams& p = params.attention;
  const Split split = params.splits[blockIdx.x];
  const int row = blockIdx.y * C::kWarps + threadIdx.x / 32, at = split.first_row + row, lane = threadIdx.x % 32;
  if (split.parts == 0 || at >= split.rows) return;
  const int dim = params.partial_dim, group = p.num_heads / p.num_kv_heads;
  const int64_t token = static_cast<int64_t>(split.q_start) + at / group;
  const int head = split.kv_head * group + at % group;
  const int64_t stride = static_cast<int64_t>(C::kTileQ) * (dim + 2);
  // The block that began the item has its own part in the second of its places, the others in their first.
  const auto part = [&](int i) { return params.partials + (2ll * (blockIdx.x + i) + (i == 0)) * stride; };
  const auto m_of = [&](int i) { return part(i)[C::kTileQ * dim + row]; };
  const auto l_of = [&](int i) { return part(i)[C::kTileQ * (dim + 1) + row]; };

  float top = -FLT_MAX;
  for (int i = lane; i < split.parts; i += 32) top = fmaxf(top, m_of(i));
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) top = fmaxf(top, ptx::shfl_bfly(top, mask));
#pragma unroll 1
  for (int quad = lane; 4 * quad < p.v_dim; quad += 32) {
    Sum sum;
    sum.consider(top);
#pragma unroll 4
    for (int i = 0; i < split.parts; ++i) {
      sum.add(m_of(i), l_of(i), *reinterpret_cast<const float4*>(part(i) + row * dim + 4 * quad));
    }
    write<C::kElement>(p, sum, token, head, quad);
  }
}

}  // namespace decode
