// moe_grouped: for each expert, y = act(x·W + bias) or act(x·W + bias)·(x·W_up + bias_up), of the rows that go to it
//
// Shapes   x [rows, k], w, w_up [here, n, k] or [here, k, n], y [splits, rows, n]; f16 or bf16, f32 accumulate
// Rows     in the order of `order`, an expert's from offsets[e] on. x is read where it lies, y written where it belongs:
//          either by place in the order, or by pair. No permuted copy of x is made
// Grid     as many blocks as the device holds, at most as many as there may be tiles. Every block counts the tiles of all
//          experts from `offsets`, then takes each gridDim.x-th tile: all tiles cost the same, so the work is balanced to
//          one tile, without a counter that blocks would draw from and without a list of tiles in memory
// Tile     kTileM × kTileN; the same main loop, columns and gate as gemm. Tiles run down the rows in groups of 8, then
//          along n: neighbours share weights, and the rows of a group, in the L2
// Smem     the main loop's ring, also the epilogue's; then per expert the first tile, the first row, the number of rows
// Hazards  H1, H2 see gemm/mainloop.cuh
//          H3 the staging of the epilogue overwrites tiles, and the next tile's copies the staging: a barrier before each
//          H4 rows and columns past the end are read as the last that exists, and not written
//          H5 offsets are checked once and kept: an expert counts if its own and all earlier ones ascend within `pairs`
//          H6 a pair is checked where it is read: of an impossible one, row 0 is read and nothing written
// Numerics as gemm; K ascends in steps of 16 in every tile: without splits, a row's bits depend on the row alone
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/status.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/gemm.cuh"
#include "gemm/mainloop.cuh"
#include "moe/experts.cuh"
#include "moe/grouped_params.cuh"
#include "moe/warp.cuh"

namespace moe {

constexpr int kMostExperts = 512 + 32;

// What each expert has.
struct TileMap {
  int first_tile[kMostExperts + 1];
  int first_row[kMostExperts];
  int rows[kMostExperts];
};

template <class Gemm_>
struct GroupedConfig {
  using Gemm = Gemm_;
  static constexpr int kThreads = Gemm::kThreads, kTileQ = Gemm::kTileM, kTileK = Gemm::kTileN;
  static constexpr int kStages = Gemm::kStages;
  static constexpr uint32_t kSmemBytes = Gemm::kSmemBytes + sizeof(TileMap);
};

// Tiles of all experts, by the first warp. H5
template <int kTileM>
__device__ __forceinline__ void count_tiles(const GroupedParams& p, TileMap& map) {
  const int lane = threadIdx.x;
  int tiles = 0;
  bool sound = true;
  for (int first = 0; first < p.here; first += 32) {
    const int e = first + lane;
    int begin = 0, end = 0;
    if (e < p.here) begin = p.offsets[e], end = p.offsets[e + 1];
    const uint32_t wrong = ptx::ballot(begin < 0 || end < begin || end > p.pairs);
    const int good = !sound ? 0 : wrong == 0 ? 32 : __ffs(wrong) - 1;  // lanes
    if (sound && wrong != 0 && lane == 0 && blockIdx.x == 0) report(p.status, kExpertRange, first + good);
    sound = sound && wrong == 0;
    const int rows = lane < good ? end - begin : 0, own = (rows + kTileM - 1) / kTileM;
    const int sum = prefix_sum(own, lane);
    if (e < p.here) map.first_tile[e] = tiles + sum - own, map.first_row[e] = begin, map.rows[e] = rows;
    tiles += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane == 0) map.first_tile[p.here] = tiles;
}

// The expert whose tiles include this one, which exists.
__device__ __forceinline__ int expert_of(const GroupedParams& p, const TileMap& map, int tile) {
  int low = 0, high = p.here - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (map.first_tile[middle + 1] > tile) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// The pair at a place of the order, or -1. H6
__device__ __forceinline__ int pair_at(const GroupedParams& p, int place) {
  const int pair = p.order[place];
  if (static_cast<uint32_t>(pair) < p.pairs) return pair;
  report(p.status, kPair, place);
  return -1;
}

// A tile: rows first_row… of the order, of one expert.
struct Tile {
  int expert, first_row, rows, first_col, split;
};

template <class C>
__device__ __forceinline__ Tile tile_at(const GroupedParams& p, const TileMap& map, int number, int tiles_m, int tiles_n,
                                        int tile_cols) {
  const int per_group = C::kGroupM * tiles_n * p.splits, group = number / per_group, in_group = number % per_group;
  const int group_rows = min(tiles_m - group * C::kGroupM, C::kGroupM), along = in_group / group_rows;
  const int tile_m = group * C::kGroupM + in_group % group_rows;
  const int e = expert_of(p, map, tile_m), above = (tile_m - map.first_tile[e]) * C::kTileM;
  return {e, map.first_row[e] + above, min(map.rows[e] - above, C::kTileM), along % tiles_n * tile_cols, along / tiles_n};
}

// Addresses of the tile's operands.
template <class C>
__device__ __forceinline__ void start(typename C::A& a, typename C::B& b, unsigned char* smem, const GroupedParams& p,
                                      const GemmParams& of_expert, const Tile& tile, int warp_row, int warp_col,
                                      int k_first) {
  a.start(ptx::shared_address(smem), warp_row, [&](int row) {
    const int place = tile.first_row + min(row, tile.rows - 1);  // H4
    const int from = p.slots == 0 ? place : max(pair_at(p, place), 0) / p.slots;
    return ptx::global_address(p.x) + 2 * (from * p.x_stride + k_first);
  });
  const gemm::Columns<C> columns{of_expert, tile.first_col, of_expert.w_up != nullptr};
  const uint32_t b_smem = ptx::shared_address(smem + C::kStages * C::A::kStageBytes);
  if constexpr (C::kLayout == gemm::Layout::kNK) {
    b.start(b_smem, warp_col, [&](uint32_t c) {
      return ptx::global_address(columns.base(c)) + 2 * (min(columns.column(c), p.n - 1) * p.w_stride + k_first);  // H4
    });
  } else {
    const int c = threadIdx.x % swizzle::kLineChunks<2 * C::kTileN> * gemm::kChunkCols;
    b.start(b_smem, warp_col, ptx::global_address(columns.base(c)) + 2 * (k_first * p.w_stride), columns.column(c),
            columns.gated ? 32 : 64, p.n, p.w_stride);
  }
}

__device__ __forceinline__ void load_bias(gemm::Chunk& to, const GroupedParams& p, const void* bias, int expert, int col,
                                          bool f16) {
  if (bias == nullptr) return;
  const uint16_t* from = static_cast<const uint16_t*>(bias) + expert * p.bias_expert + col * p.bias_step;
#pragma unroll
  for (int i = 0; i < gemm::kChunkCols; ++i) {
    float high;
    if (f16) {
      fragment::unpack<fragment::Element::kF16>(from[i * p.bias_step], to[i], high);
    } else {
      fragment::unpack<fragment::Element::kBf16>(from[i * p.bias_step], to[i], high);
    }
  }
}

template <class C>
__device__ __forceinline__ void epilogue(const GroupedParams& p, GemmParams of_expert, unsigned char* smem,
                                         const typename C::Accumulators& acc, const Tile& tile, int warp_row, int first_col,
                                         int warp) {
  const bool gated = p.w_up != nullptr;
  const gemm::Drain<C> drain{gated};
  const int col = first_col + drain.out_col();
  gemm::Finish<C::kElement> finish(of_expert, gated, col);
  const int rows = finish.exist > 0 ? tile.rows - warp_row : 0;  // H4
  if (rows > 0 && tile.split == 0) {
    constexpr bool kF16 = C::kElement == fragment::Element::kF16;
    load_bias(finish.bias, p, p.bias, tile.expert, col, kF16);
    if (gated) load_bias(finish.bias_up, p, p.bias_up, tile.expert, col, kF16);
  }
  drain.run(smem, acc, warp, rows, [&](int down, gemm::Chunk& z, gemm::Chunk& u) {
    const int place = tile.first_row + warp_row + down;
    const int row = p.scatter ? pair_at(p, place) : place;
    if (row >= 0) finish.row(z, u, row);
  });
}

template <class Config>
__device__ __forceinline__ void grouped(const GroupedParams& p) {
  using C = typename Config::Gemm;
  extern __shared__ __align__(128) unsigned char smem[];
  TileMap& map = *reinterpret_cast<TileMap*>(smem + C::kSmemBytes);
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  const int warp_row = warp % C::kWarpsM * C::kWarpRows, warp_col = warp / C::kWarpsM * C::kWarpCols;
  const bool gated = p.w_up != nullptr;
  const int tile_cols = gated ? C::kTileN / 2 : C::kTileN;
  if (warp == 0) count_tiles<C::kTileM>(p, map);
  __syncthreads();

  const int tiles_m = ptx::shfl_first(map.first_tile[p.here]), tiles_n = (p.n - 1) / tile_cols + 1;
  const int tiles = tiles_m * tiles_n * p.splits;
  const int64_t k_tiles = (p.k + C::kDepth - 1) / C::kDepth;
#pragma unroll 1
  for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
    const Tile tile = tile_at<C>(p, map, number, tiles_m, tiles_n, tile_cols);
    const int64_t weights = tile.expert * p.w_expert;
    GemmParams of_expert = {};
    of_expert.w = static_cast<const uint16_t*>(p.w) + weights;
    of_expert.w_up = gated ? static_cast<const uint16_t*>(p.w_up) + weights : nullptr;
    of_expert.y = static_cast<unsigned char*>(p.y) + tile.split * p.y_split * (p.y_is_f32 ? 4 : 2);
    of_expert.y_stride = p.y_stride, of_expert.y_is_f32 = p.y_is_f32;
    of_expert.n = p.n, of_expert.activation = p.activation;

    const int split = ptx::shfl_first(tile.split);
    const int k_first = k_tiles * split / p.splits * C::kDepth;
    const int k_len = min(static_cast<int>(k_tiles * (split + 1) / p.splits) * C::kDepth, p.k) - k_first;
    typename C::Accumulators acc = {};
    if (k_len > 0) {
      typename C::A a;
      typename C::B b;
      start<C>(a, b, smem, p, of_expert, tile, warp_row, warp_col, k_first);
      gemm::accumulate<C>(acc, a, b, k_len);
      __syncthreads();  // H3
    }
    const gemm::Columns<C> columns{of_expert, tile.first_col, gated};
    epilogue<C>(p, of_expert, smem, acc, tile, warp_row, columns.column(warp_col), warp);
    __syncthreads();  // H3
  }
}

}  // namespace moe
