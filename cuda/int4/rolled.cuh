// gemm/mainloop.cuh's accumulate in a quarter of the text: one tile at a time, its stage a number rather than a constant.
// For weights whose groups are shorter than a tile, which are rare.
//
// Hazards  H1, H2 as there
#pragma once

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"

namespace q4 {

// k_len > 0: columns of K. CTA-collective.
template <class C, class A, class B>
__device__ __forceinline__ void accumulate_rolled(float (&acc)[A::kBlocks][2 * B::kBlocks][4], A& a, B& b, int k_len) {
  constexpr int kSteps = C::kDepth / 16, kStages = C::kStages;
  typename A::Fragments fa[2];
  typename B::Fragments fb[2];
  const int tiles = (k_len - 1) / C::kDepth + 1;

  // The next tile, if there is one; `at` of all.
  const auto copy = [&](int at, int stage) {
    if (at < tiles) {
      const int exist = min(k_len - at * C::kDepth, C::kDepth);
      a.copy_last(stage, 0, exist);
      b.copy_last(stage, 0, exist);
      a.advance(1);
      b.advance(1);
    }
    ptx::cp_async_commit_group();
  };
  const auto multiply = [&](int step) {
#pragma unroll
    for (int i = 0; i < A::kBlocks; ++i)
#pragma unroll
      for (int j = 0; j < B::kBlocks; ++j) {
        fragment::mma<C::kElement>(acc[i][2 * j], fa[step % 2][i], fb[step % 2][j][0], fb[step % 2][j][1]);
        fragment::mma<C::kElement>(acc[i][2 * j + 1], fa[step % 2][i], fb[step % 2][j][2], fb[step % 2][j][3]);
      }
  };

#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) copy(stage, stage);
  ptx::cp_async_wait_group<kStages - 2>();
  __syncthreads();  // H1
  a.template load<0>(fa[0], 0);
  b.template load<0>(fb[0], 0);
  int stage = 0, before = kStages - 1;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int next = stage + 1 == kStages ? 0 : stage + 1;
    unroll<0, kSteps - 1>([&](auto step) {
      a.template load<0>(fa[(step + 1) % 2], step + 1, stage);
      b.template load<0>(fb[(step + 1) % 2], step + 1, stage);
      if constexpr (step == 0) copy(tile + kStages - 1, before);  // H2: the stage before this one
      multiply(step);
    });
    if (tile + 1 < tiles) {
      ptx::cp_async_wait_group<kStages - 2>();
      __syncthreads();  // H1, H2
      a.template load<0>(fa[0], 0, next);
      b.template load<0>(fb[0], 0, next);
    }
    multiply(kSteps - 1);
    before = stage, stage = next;
  }
}

}  // namespace q4
