// decode_invariant_merge: adds up the segments of items that several blocks had, from the first key to the last.
//
// Grid     (blocks of the decode launch, 4): block (c, y) completes rows 4y..4y+3 of the item that decode block c began and
//          did not end, if there is one       Block 128 = 4 warps, a row each; a lane has four neighbouring columns of 128
// Reads    every state once: segments · rows · (Dv + 2) floats
// Numerics f32, as decode blocks add up segments: the same function. The sink counts here, once
#pragma once

#include <cstdint>

#include "attention/decode_invariant_params.cuh"
#include "attention/decode_invariant_result.cuh"
#include "attention/decode_merge.cuh"

namespace decode {

template <class C>
__device__ __forceinline__ void merge_segments(const InvariantParams& params) {
  const PrefillParams& p = params.decode.attention;
  const SegmentSplit split = params.splits[blockIdx.x];
  const int row = blockIdx.y * C::kWarps + threadIdx.x / 32, at = split.first_row + row, lane = threadIdx.x % 32;
  if (split.others == 0 || at >= split.rows) return;
  const int dim = params.decode.partial_dim, group = p.num_heads / p.num_kv_heads;
  const int64_t token = static_cast<int64_t>(split.q_start) + at / group;
  const int head = split.kv_head * group + at % group;
  const int64_t size = static_cast<int64_t>(C::kTileQ) * (dim + 2);
  const auto state = [&](int block, int place, int quad) {
    const float* from = params.decode.partials + (static_cast<int64_t>(block) * params.places + place) * size;
    Sum sum;
    sum.m = from[C::kTileQ * dim + row];
    sum.l = from[C::kTileQ * (dim + 1) + row];
    sum.o = *reinterpret_cast<const float4*>(from + row * dim + 4 * quad);
    return sum;
  };
#pragma unroll 1
  for (int quad = lane; 4 * quad < p.v_dim; quad += 32) {
    // What its block had from the first segment on is in its place 0, all other segments in places from 1 on.
    Sum sum = state(blockIdx.x, 0, quad);
    int block = blockIdx.x, place = 0, last = 0;
#pragma unroll 4
    for (int i = 0; i < split.others; ++i) {
      if (place == last) {
        ++block;
        place = 0;
        last = split.each + (block < split.longer);
      }
      ++place;
      sum = folded(sum, state(block, place, quad));
    }
    write_unsigned_zeros<C::kElement>(p, sum, token, head, quad);
  }
}

}  // namespace decode
