// mla_merge: adds up what several MLA blocks have each done of an item, in the order of the keys.
//
// Grid     (blocks of the MLA launch, rows of an item / 4): block (c, y) merges rows 4y..4y+3 of the item that block c left
//          behind, if there is one   Block 128 = 4 warps, a row each; a lane has four neighbouring columns of each 128
// Reads    every partial result once: parts · rows · (512 + 2) floats
// Numerics as decode_merge.cuh
#pragma once

#include <cstdint>

#include "attention/decode_result.cuh"
#include "attention/mla_params.cuh"
#include "common/ptx.cuh"

namespace mla {

template <fragment::Element kElement_>
struct MergeConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTileQ = kWarps;
  static constexpr int kTileK = 0;
  static constexpr int kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
  static constexpr int kLatentDim = 512;
};

template <class C>
__device__ __forceinline__ void merge(const MlaParams& params) {
  const PrefillParams& p = params.decode.attention;
  const Split split = params.decode.splits[blockIdx.x];
  const int row = blockIdx.y * C::kWarps + threadIdx.x / 32, at = split.first_row + row, lane = threadIdx.x % 32;
  if (split.parts == 0 || at >= split.rows) return;
  const int64_t tile_q = gridDim.y * C::kWarps;
  const int64_t token = static_cast<int64_t>(split.q_start) + at / p.num_heads;
  // The block that began the item has its own part in the second of its places, the others in their first.
  const auto part = [&](int i) {
    return params.decode.partials + (2ll * (blockIdx.x + i) + (i == 0)) * tile_q * (C::kLatentDim + 2);
  };
  const auto m_of = [&](int i) { return part(i)[tile_q * C::kLatentDim + row]; };
  const auto l_of = [&](int i) { return part(i)[tile_q * (C::kLatentDim + 1) + row]; };

  decode::Sum start;
  for (int i = lane; i < split.parts; i += 32) start.consider(m_of(i));
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) start.consider(ptx::shfl_bfly(start.m, mask));
#pragma unroll 1
  for (int quad = lane; 4 * quad < C::kLatentDim; quad += 32) {
    decode::Sum sum = start;
#pragma unroll 4
    for (int i = 0; i < split.parts; ++i) {
      sum.add(m_of(i), l_of(i), *reinterpret_cast<const float4*>(part(i) + row * C::kLatentDim + 4 * quad));
    }
    decode::write<C::kElement>(p, sum, token, at % p.num_heads, quad);
  }
}

}  // namespace mla
