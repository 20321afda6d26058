// int4: y = act(x·W + bias) + residual, or act(x·W + bias)·(x·W_up + bias_up) + residual, W of 4-bit codes
//
// Shapes   x [m,k]  w, w_up packed (src/int4/layout.rs)  y, residual [m,n]; f16 or bf16, f32 accumulate; y in f32 on demand
// Grid     (tiles of y, splits of K)      as gemm/gemm.cuh, whose main loop and epilogue these are
// Tile     kTileM × 256, 64 deep; where gated, 32 columns of w and the same 32 of w_up for each warp
// Warps    4 along N, kTileM × 64 each: no weight is dequantized twice, nor read by two warps
// Smem     kStages of x's rows, 128 bytes each, and of each warp's codes, scales and zero points
// Splits   as in gemm.cuh: in order, no atomics. A range of K may begin within a group
// Hazards  H1, H2 see mainloop.cuh; H3, H4 gemm.cuh. Units past the end are read at the last one that exists
// Numerics a weight s·(q - z) is rounded to x's type, once; products exact, sums in f32; one rounding at the end
#pragma once

#include <cstdint>

#include "gemm/gemm.cuh"
#include "gemm/mainloop.cuh"
#include "gemm/operands.cuh"
#include "int4/int4_operand.cuh"
#include "int4/int4_params.cuh"
#include "int4/rolled.cuh"

namespace q4 {

template <fragment::Element kElement_, int kTileM_, int kStages_>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kTileM = kTileM_, kTileN = 256, kDepth = 64, kStages = kStages_;
  static constexpr int kWarpsN = 4, kThreads = 32 * kWarpsN;
  static constexpr int kWarpRows = kTileM, kWarpCols = kTileN / kWarpsN;
  static constexpr int kGroupM = 8;                       // tiles down M that follow each other
  static constexpr int kTileQ = kTileM, kTileK = kTileN;  // as the host calls them

  using A = gemm::RowOperand<Config, gemm::Side::kA, kTileM, kWarpRows>;
  template <bool kShort>
  using Weights = Operand<Config, kWarpCols, kShort>;
  using B = Weights<false>;
  using Accumulators = float[A::kBlocks][2 * B::kBlocks][4];

  static constexpr uint32_t kTileBytes = kStages * (A::kStageBytes + B::kStageBytes);
  static constexpr uint32_t kStagingBytes = 16 * kWarpCols * 4;  // of a warp, in the epilogue
  static constexpr uint32_t kSmemBytes = kTileBytes;
  static_assert(kStagingBytes * kWarpsN <= kTileBytes, "the epilogue fits");
};

// The sums of a tile over tiles of K from tile_first on, k_len columns.
template <class C, bool kShort>
__device__ __forceinline__ void sum(typename C::Accumulators& acc, const Int4Params& params, unsigned char* smem, int warp,
                                    int first_row, int first_col, int tile_first, int k_len) {
  const GemmParams& p = params.gemm;
  typename C::A a;
  typename C::template Weights<kShort> b;
  a.start(ptx::shared_address(smem), 0, [&](int row) {  // H4
    return ptx::global_address(p.x) + 2 * (min(first_row + row, p.m - 1) * p.x_stride + tile_first * C::kDepth);
  });
  const uint32_t b_smem = ptx::shared_address(smem) + C::kStages * C::A::kStageBytes + warp * C::B::kWarpBytes;
  const bool gated = p.w_up != nullptr;
  b.start(params, b_smem, tile_first, [&](int u) {
    const int unit = first_col / kUnit + (gated ? 0 : u);
    return Unit{min(unit, (p.n - 1) / kUnit), gated && u > 0};  // H4
  });
  if constexpr (kShort) {
    accumulate_rolled<C>(acc, a, b, k_len);
  } else {
    gemm::accumulate<C>(acc, a, b, k_len);
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void matmul(const Int4Params& params) {
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

  const int first_row = tile_m * C::kTileM, first_col = tile_n * tile_cols + warp * (tile_cols / C::kWarpsN);
  typename C::Accumulators acc = {};
  if (k_len > 0) {
    if (params.groups_per_tile == 1) {
      sum<C, false>(acc, params, smem, warp, first_row, first_col, tile_first, k_len);
    } else {
      sum<C, true>(acc, params, smem, warp, first_row, first_col, tile_first, k_len);
    }
    __syncthreads();  // H3
  }
  gemm::epilogue<C>(p, smem, acc, first_row, first_col, warp);
}

}  // namespace q4
