// gemm: y = act(x·W + bias) + residual, or act(x·W + bias)·(x·W_up + bias_up) + residual
//
// Shapes   x [m,k]  w, w_up [n,k] or [k,n]  y, residual [m,n]; f16 or bf16, f32 accumulate; y in f32 on demand
// Grid     (tiles of y, splits of K)        tiles run down M in groups, so that neighbours share w and x in the L2
// Tile     kTileM × kTileN, kDepth deep; where gated, every warp's columns are half gate, half up, of the same outputs
// Warps    kWarpsM × kWarpsN, 64×64 each in the large tiles: a byte from shared memory feeds as many tensor operations
//          as registers allow. Lane l holds rows l/4, l/4+8 of each 16, columns 2(l%4) + {0,1} of each 8
// Smem     kStages of A kTileM and B kTileN rows of 64 bytes; the epilogue reuses them, 16 rows of a warp at a time
// Splits   each sums its own range of K tiles into workspace; gemm_reduce adds them in order. No atomics: the bits of a
//          result depend on the shapes alone, and those of a row of y on n, k and the plan, not on other rows
// Hazards  H1, H2 see mainloop.cuh
//          H3 the staging of the epilogue overwrites tiles: only after all warps have left the main loop
//          H4 rows and columns past the end: x and w are read at the last row that exists, or zero-filled; not written
// Numerics products exact, sums in f32 by the tensor cores' rule; bias, activation, gate, residual in f32; one rounding
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/gemm_params.cuh"
#include "gemm/mainloop.cuh"
#include "gemm/operands.cuh"

namespace gemm {

// How w is stored: [n,k], [k,n], or either with any stride and alignment, x too.
enum class Layout { kNK, kKN, kAny };

template <fragment::Element kElement_, Layout kLayout_, int kTileM_, int kTileN_, int kDepth_, int kStages_,
          int kWarpsM_, int kWarpsN_>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr Layout kLayout = kLayout_;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kDepth = kDepth_, kStages = kStages_;
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpRows = kTileM / kWarpsM, kWarpCols = kTileN / kWarpsN;
  static constexpr int kGroupM = 8;  // tiles down M that follow each other
  static constexpr int kTileQ = kTileM, kTileK = kTileN;  // as the host calls them

  template <Layout kOf, class Dummy = void>
  struct Operands {
    using A = RowOperand<Config, Side::kA, kTileM, kWarpRows>;
    using B = RowOperand<Config, Side::kB, kTileN, kWarpCols>;
  };
  template <class Dummy>
  struct Operands<Layout::kKN, Dummy> {
    using A = RowOperand<Config, Side::kA, kTileM, kWarpRows>;
    using B = ColumnOperand<Config, kTileN, kWarpCols>;
  };
  template <class Dummy>
  struct Operands<Layout::kAny, Dummy> {
    using A = ElementOperand<Config, Side::kA, kTileM, kWarpRows>;
    using B = ElementOperand<Config, Side::kB, kTileN, kWarpCols>;
  };
  using A = typename Operands<kLayout>::A;
  using B = typename Operands<kLayout>::B;
  using Accumulators = float[A::kBlocks][2 * B::kBlocks][4];

  static constexpr uint32_t kTileBytes = kStages * (A::kStageBytes + B::kStageBytes);
  static constexpr uint32_t kStagingBytes = 16 * kWarpCols * 4;  // of a warp
  static constexpr uint32_t kSmemBytes = kTileBytes;
  static_assert(kStagingBytes * kWarpsM * kWarpsN <= kTileBytes, "the epilogue fits");
};

// Which columns a tile holds. Tile column c of a gated product is column (c/W)·W/2 + c%(W/2) of the output, W the
// warp's columns; the first half of each W from w, the second from w_up.
template <class C>
struct Columns {
  const GemmParams& p;
  int first;  // output column of the tile's first
  bool gated;

  __device__ __forceinline__ bool is_up(uint32_t c) const { return gated && c % C::kWarpCols >= C::kWarpCols / 2; }
  __device__ __forceinline__ int column(uint32_t c) const {
    return first + (gated ? c / C::kWarpCols * (C::kWarpCols / 2) + c % (C::kWarpCols / 2) : c);
  }
  __device__ __forceinline__ const void* base(uint32_t c) const { return is_up(c) ? p.w_up : p.w; }
};

// Addresses of the operands' tiles for the K range that begins at k_first.
template <class C>
__device__ __forceinline__ void start(typename C::A& a, typename C::B& b, unsigned char* smem, int first_row,
                                      int warp_row, int warp_col, const Columns<C>& columns, int k_first) {
  const GemmParams& p = columns.p;
  unsigned char* b_smem = smem + C::kStages * C::A::kStageBytes;
  const auto row_of = [&](int row) { return min(first_row + row, p.m - 1) * p.x_stride + k_first; };  // H4
  const auto row_of_w = [&](uint32_t c) { return min(columns.column(c), p.n - 1) * p.w_stride; };          // H4
  if constexpr (C::kLayout == Layout::kAny) {
    a.start(smem, warp_row, 1, [&](int row) { return static_cast<const uint16_t*>(p.x) + row_of(row); });
    b.start(b_smem, warp_col, p.w_step, [&](uint32_t c) {
      return static_cast<const uint16_t*>(columns.base(c)) + row_of_w(c) + k_first * p.w_step;
    });
  } else {
    a.start(ptx::shared_address(smem), warp_row, [&](int row) { return ptx::global_address(p.x) + 2 * row_of(row); });
    if constexpr (C::kLayout == Layout::kNK) {
      b.start(ptx::shared_address(b_smem), warp_col, [&](uint32_t c) {
        return ptx::global_address(columns.base(c)) + 2 * (row_of_w(c) + k_first);
      });
    } else {
      const int c = threadIdx.x % swizzle::kLineChunks<2 * C::kTileN> * kChunkCols;
      b.start(ptx::shared_address(b_smem), warp_col, ptx::global_address(columns.base(c)) + 2 * (k_first * p.w_stride),
              columns.column(c), columns.gated ? 32 : 64, p.n, p.w_stride);
    }
  }
}

// Hands out what a warp accumulated, by way of shared memory: 16 rows at a time, as f32. f(row, z, u) gets eight outputs of
// each of its first `rows` rows, of those columns that lead to `out_col`: sums, and where gated those of the up product.
template <class C>
struct Drain {
  static constexpr int kRowChunks = C::kWarpCols / 4;  // of 16 bytes
  static constexpr int kLanes = C::kWarpCols / kChunkCols, kLaneBits = kLanes == 8 ? 3 : 2;
  static_assert(kLanes == 1 << kLaneBits, "lanes that share a row, where it is not gated");

  bool gated;

  __device__ __forceinline__ int outputs() const { return C::kWarpCols >> gated; }

  // Where this lane's eight outputs begin, in the warp's.
  __device__ __forceinline__ int out_col() const { return (threadIdx.x & ((kLanes >> gated) - 1)) * kChunkCols; }

  // Chunk c of row r lies at c ^ 2(r % 4): eight lanes that write or read 16 bytes meet all banks once.
  static __device__ __forceinline__ int at(int row, int chunk) { return row * kRowChunks + (chunk ^ row % 4 * 2); }

  static __device__ __forceinline__ void read(Chunk& to, const float4* staging, int row, int col) {
    const int chunk = col / 4, swap = (chunk / 8 + row) % 2;  // which half first: eight lanes do not collide
    const float4 a = staging[at(row, chunk + swap)], b = staging[at(row, chunk + (swap ^ 1))];
    const float4 low = swap ? b : a, high = swap ? a : b;
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  }

  template <class F>
  __device__ __forceinline__ void run(unsigned char* smem, const typename C::Accumulators& acc, int warp, int rows,
                                      F&& f) const {
    const uint32_t lane = threadIdx.x % 32;
    float4* staging = reinterpret_cast<float4*>(smem + warp * C::kStagingBytes);
    // This lane's two columns of four blocks of 8, in its first row: other blocks and rows are constants further.
    float* own[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t col = 8 * j + fragment::acc_col(lane, 0);
      own[j] = reinterpret_cast<float*>(staging + at(fragment::acc_row(lane, 0), col / 4)) + col % 4;
    }
#pragma unroll 1
    for (int block = 0; block < C::A::kBlocks; ++block) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < C::A::kBlocks; ++i) {  // registers have no index: one copy of what follows, one write per block
        if (i != block) continue;
#pragma unroll
        for (int j = 0; j < 2 * C::B::kBlocks; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            *reinterpret_cast<float2*>(own[j % 4] + j / 4 * 32 + h * 8 * C::kWarpCols) =
                make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
          }
      }
      __syncwarp();
#pragma unroll 1
      for (int down = lane >> (kLaneBits - gated); down < 16; down += 32 / kLanes << gated) {
        const int row = 16 * block + down;
        if (row >= rows) break;
        Chunk z, u;
        read(z, staging, down, out_col());
        if (gated) read(u, staging, down, outputs() + out_col());
        f(row, z, u);
      }
    }
  }
};

// Sums to y, or to the split's share of the workspace.
template <class C>
__device__ __forceinline__ void epilogue(const GemmParams& p, unsigned char* smem, const typename C::Accumulators& acc,
                                         int first_row, int first_col, int warp) {
  const bool gated = p.w_up != nullptr;
  const Drain<C> drain{gated};
  const int col = first_col + drain.out_col();
  const Finish<C::kElement> finish(p, gated, col);
  const int rows = finish.exist > 0 ? p.m - first_row : 0;  // H4
  drain.run(smem, acc, warp, rows, [&](int down, Chunk& z, Chunk& u) {
    const int row = first_row + down;
    if (p.partial == nullptr) {
      finish.row(z, u, row);
    } else {
      store_partial(p, blockIdx.y, row, col, z, u);
    }
  });
}

// The kernel.
template <class C>
__device__ __forceinline__ void gemm(const GemmParams& p) {
  extern __shared__ __align__(128) unsigned char smem[];
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  const int warp_m = warp % C::kWarpsM, warp_n = warp / C::kWarpsM;
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
  const int k_first = tile_first * C::kDepth, k_len = min(tile_end * C::kDepth, p.k) - k_first;

  const Columns<C> columns{p, tile_n * tile_cols, gated};
  typename C::Accumulators acc = {};
  if (k_len > 0) {
    typename C::A a;
    typename C::B b;
    start<C>(a, b, smem, tile_m * C::kTileM, warp_m * C::kWarpRows, warp_n * C::kWarpCols, columns, k_first);
    accumulate<C>(acc, a, b, k_len);
    __syncthreads();  // H3
  }
  const int first_row = tile_m * C::kTileM + warp_m * C::kWarpRows;
  const int first_col = columns.column(warp_n * C::kWarpCols);
  epilogue<C>(p, smem, acc, first_row, first_col, warp);
}

// gemm_reduce: the end of y from the partial sums of all splits, added in order. One thread per chunk of a row.
template <fragment::Element kElement_>
struct ReduceConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kThreads = 128, kTileQ = 1, kTileK = kThreads * kChunkCols, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

template <class C>
__device__ __forceinline__ void reduce(const GemmParams& p) {
  const int chunks = (p.n - 1) / kChunkCols + 1;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * C::kThreads + threadIdx.x;
  if (item >= static_cast<int64_t>(chunks) * p.m) return;
  const int row = item / chunks, col = item % chunks * kChunkCols;
  const bool gated = p.w_up != nullptr;
  const Finish<C::kElement> finish(p, gated, col);
  Chunk z = {}, u = {};
#pragma unroll 1
  for (int split = 0; split < p.splits; ++split) {
    add_f32(z, p.partial + partial_at(p, split, false, row, col), finish.exist);
    if (gated) add_f32(u, p.partial + partial_at(p, split, true, row, col), finish.exist);
  }
  finish.row(z, u, row);
}

}  // namespace gemm
