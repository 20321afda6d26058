// The main loop of every matrix product: acc += A·B over a range of K tiles.
//
// Stages   copies run kStages - 1 tiles ahead; fragments one step of 16 ahead, across tiles too
// Order    K ascends in steps of 16, whatever the tile: a product's bits depend on k alone
// Loops    the main one copies whole tiles only; the last tile, which may lack columns, and the tiles that are left when
//          all are on their way have a loop of their own
// Hazards  H1 a tile is read only after every thread's copies of it have landed: wait, then barrier
//          H2 a stage is refilled only after the barrier that follows its last read: that of the tile before
#pragma once

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"

namespace gemm {

// k_len > 0: columns of K. CTA-collective.
template <class C, class A, class B>
__device__ __forceinline__ void accumulate(float (&acc)[A::kBlocks][2 * B::kBlocks][4], A& a, B& b, int k_len) {
  constexpr int kSteps = C::kDepth / 16, kStages = C::kStages;
  static_assert(kSteps % 2 == 0, "fragments of even and odd steps have registers of their own");
  typename A::Fragments fa[2];
  typename B::Fragments fb[2];
  const int tiles = (k_len - 1) / C::kDepth + 1, last_exist = k_len - (tiles - 1) * C::kDepth;

  const auto multiply = [&](int step) {
#pragma unroll
    for (int i = 0; i < A::kBlocks; ++i)
#pragma unroll
      for (int j = 0; j < B::kBlocks; ++j) {
        fragment::mma<C::kElement>(acc[i][2 * j], fa[step % 2][i], fb[step % 2][j][0], fb[step % 2][j][1]);
        fragment::mma<C::kElement>(acc[i][2 * j + 1], fa[step % 2][i], fb[step % 2][j][2], fb[step % 2][j][3]);
      }
  };

  unroll<0, kStages - 1>([&](auto stage) {
    if (stage < tiles - 1) {
      a.template copy<stage, stage>();
      b.template copy<stage, stage>();
    } else if (stage == tiles - 1) {
      a.copy_last(stage, stage, last_exist);
      b.copy_last(stage, stage, last_exist);
    }
    ptx::cp_async_commit_group();
  });
  a.advance(kStages - 1);
  b.advance(kStages - 1);
  ptx::cp_async_wait_group<kStages - 2>();
  __syncthreads();  // H1
  a.template load<0>(fa[0], 0);
  b.template load<0>(fb[0], 0);

  int left = tiles;               // tiles to multiply
  int stage_at = 0, ahead_at = 0;  // where the main loop ended
  while (left > kStages) {
    const bool all = unroll_while<0, kStages>([&](auto stage) {
      unroll<0, kSteps - 1>([&](auto step) {
        a.template load<stage>(fa[(step + 1) % 2], step + 1);
        b.template load<stage>(fb[(step + 1) % 2], step + 1);
        if constexpr (step == 0) {
          a.template copy<(stage + kStages - 1) % kStages, stage>();  // H2: the stage before this one
          b.template copy<(stage + kStages - 1) % kStages, stage>();
          ptx::cp_async_commit_group();
        }
        multiply(step);
      });
      ptx::cp_async_wait_group<kStages - 2>();
      __syncthreads();  // H1, H2
      a.template load<(stage + 1) % kStages>(fa[0], 0);
      b.template load<(stage + 1) % kStages>(fb[0], 0);
      multiply(kSteps - 1);
      stage_at = (stage + 1) % kStages, ahead_at = stage + 1;
      return --left > kStages;
    });
    if (!all) break;
    a.advance(kStages);
    b.advance(kStages);
  }

#pragma unroll 1
  for (; left > 0; --left) {
    const int next = stage_at + 1 == kStages ? 0 : stage_at + 1;
    unroll<0, kSteps - 1>([&](auto step) {
      a.template load<0>(fa[(step + 1) % 2], step + 1, stage_at);
      b.template load<0>(fb[(step + 1) % 2], step + 1, stage_at);
      if constexpr (step == 0) {
        if (left == kStages) {  // H2
          const int before = stage_at == 0 ? kStages - 1 : stage_at - 1;
          a.copy_last(before, ahead_at, last_exist);
          b.copy_last(before, ahead_at, last_exist);
        }
        ptx::cp_async_commit_group();
      }
      multiply(step);
    });
    if (left > 1) {
      ptx::cp_async_wait_group<kStages - 2>();
      __syncthreads();  // H1, H2
      a.template load<0>(fa[0], 0, next);
      b.template load<0>(fb[0], 0, next);
    }
    multiply(kSteps - 1);
    stage_at = next;
  }
}

}  // namespace gemm
