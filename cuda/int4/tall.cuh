// int4, tall tiles: y = act(x·W + bias) + residual, or act(x·W + bias)·(x·W_up + bias_up) + residual, for many rows
//
// Shapes   as int4.cuh; so are the grid, splits, hazards and numerics: the same bits
// Tile     128 × 256, 64 deep; where gated, 128 columns of w and the same of w_up
// Warps    8 along N, 128 × 32 each: all rows of the tile meet a weight where it was dequantized. Where gated, a warp with an
//          even number has 32 columns of w, the next the same of w_up
// Smem     kStages of x's rows, 128 bytes each, and of each warp's codes, scales and zero points
#pragma once

#include <cstdint>

#include "gemm/gemm.cuh"
#include "int4/int4_operand.cuh"
#include "int4/int4_params.cuh"
#include "int4/tall_drain.cuh"
#include "int4/tall_loop.cuh"
#include "int4/tall_operand.cuh"

namespace q4 {

template <fragment::Element kElement_>
struct TallConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kTileM = 128, kTileN = 256, kDepth = 64, kStages = 3;
  static constexpr int kWarpsN = 8, kThreads = 32 * kWarpsN, kWarpCols = kTileN / kWarpsN;
  static constexpr int kGroupM = 8;                       // tiles down M that follow each other
  static constexpr int kTileQ = kTileM, kTileK = kTileN;  // as the host calls them

  using A = TallRows<TallConfig>;
  using B = TallWeights<TallConfig>;
  using Accumulators = float[A::kBlocks][2 * B::kBlocks][4];

  static constexpr uint32_t kPitch = A::kStageBytes + B::kStageBytes;
  static constexpr uint32_t kStagingBytes = 16 * kWarpCols * 4;  // of a warp, in the epilogue
  static constexpr uint32_t kSmemBytes = kStages * kPitch;
  static_assert(kStagingBytes * kWarpsN <= kSmemBytes && kPitch % 128 == 0, "the epilogue fits, and stages are aligned");
};

// The kernel.
template <class C>
__device__ __forceinline__ void tall(const typename C::B::Params& params) {
  extern __shared__ __align__(128) unsigned char smem[];
  const GemmParams& p = params.gemm;
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  const bool gated = p.w_up != nullptr;
  const int tile_cols = gated ? C::kTileN / 2 : C::kTileN;

  // Tiles in groups of kGroupM down M, then along N, then the next group.
  const int tiles_m = (p.m - 1) / C::kTileM + 1, tiles_n = (p.n - 1) / tile_cols + 1;
  const int group = blockIdx.x / (C::kGroupM * tiles_n), group_rows = min(tiles_m - group * C::kGroupM, C::kGroupM);
  const int in_group = blockIdx.x % (C::kGroupM * tiles_n);
  const int tile_m = group * C::kGroupM + in_group % group_rows, tile_n = in_group / group_rows;

  // This split's K tiles.
  const int64_t k_tiles = (p.k + C::kDepth - 1) / C::kDepth;
  const int tile_first = k_tiles * blockIdx.y / p.splits, tile_end = k_tiles * (blockIdx.y + 1) / p.splits;
  const int k_len = min(tile_end * C::kDepth, p.k) - tile_first * C::kDepth;

  const int first_row = tile_m * C::kTileM, first_col = tile_n * tile_cols + (gated ? warp / 2 : warp) * C::kWarpCols;
  typename C::Accumulators acc = {};
  if (k_len > 0) {
    const uint32_t shared = ptx::shared_address(smem);
    typename C::A a;
    typename C::B b;
    a.start(shared, [&](int row) {  // H4
      return ptx::global_address(p.x) + 2 * (min(first_row + row, p.m - 1) * p.x_stride + tile_first * C::kDepth);
    });
    b.start(params, shared + C::A::kStageBytes + warp * C::B::kWarpBytes, tile_first, tile_end - tile_first,
            Unit{min(first_col, p.n - 1) / kUnit, gated && warp % 2 == 1});  // H4
    TallLoop<C>{acc, a, b}.run(k_len);
    __syncthreads();  // H3
  }
  tall_epilogue<C>(p, smem, acc, first_row, first_col, warp);
}

}  // namespace q4
