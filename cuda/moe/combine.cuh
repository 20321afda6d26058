// moe_combine: y[t] = Σ over slots s of weights[t,s] · Σ over splits of parts[·,t,s]
//
// Shapes   parts [splits, tokens, slots, hidden] → y [tokens, hidden]
// Grid     (chunks of 8 columns of y / 128)   Block 128: a thread has one chunk, of all slots
// Order    slots ascend, and in each the splits: the same bits whatever else is in the batch. Each part is read once
// Hazards  H1 the part of a slot without an expert on this device was never written: it is not read
// Numerics f32, one rounding
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "gemm/epilogue.cuh"
#include "moe/combine_params.cuh"
#include "moe/experts.cuh"

namespace moe {

template <fragment::Element kElement_>
struct CombineConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kThreads = 128, kTileQ = 1, kTileK = kThreads * gemm::kChunkCols, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

template <class C>
__device__ __forceinline__ void combine(const CombineParams& p) {
  const int chunks = p.hidden / gemm::kChunkCols;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * C::kThreads + threadIdx.x;
  if (item >= static_cast<int64_t>(chunks) * p.tokens) return;
  const int64_t token = item / chunks;
  const int col = item % chunks * gemm::kChunkCols;
  const Experts experts{p.routed, p.shared, p.first, p.local};
  const int64_t split_stride = static_cast<int64_t>(p.tokens) * p.slots * p.hidden;

  gemm::Chunk y = {};
  for (int slot = 0; slot < p.slots; ++slot) {
    const int64_t pair = token * p.slots + slot;
    if (experts.index(p.ids[pair]) >= experts.here()) continue;  // H1
    const float weight = p.weights[pair];
    const int64_t at = pair * p.hidden + col;
    gemm::Chunk part = {};
    if (p.parts_are_f32) {
      for (int split = 0; split < p.splits; ++split) {
        gemm::add_f32(part, static_cast<const float*>(p.parts) + split * split_stride + at, gemm::kChunkCols);
      }
    } else {
      gemm::load_chunk<C::kElement>(part, static_cast<const uint16_t*>(p.parts) + at, gemm::kChunkCols);
    }
#pragma unroll
    for (int i = 0; i < gemm::kChunkCols; ++i) y[i] += weight * part[i];
  }
  gemm::store_16_bit<C::kElement>(static_cast<uint16_t*>(p.y) + token * p.y_stride + col, y, gemm::kChunkCols);
}

}  // namespace moe
