// int4_stream: y = act(x·W + bias) + residual, or gated, as int4.cuh, for few rows: weights pass by once
//
// Shapes   as int4.cuh; kRows = 8 or 16 rows of x at a time
// Grid     blocks that share the weights, for each of these tiles of y's rows
// Shares   the weights in a line, strips of 64 columns of 64-row tiles, cut into a range for each block: every
//          multiprocessor has as much to do as the others. Within a strip, each warp has a quarter of the block's tiles
// Warps    4. Operands are swapped: a word of codes is the 16-row operand, kRows of x are one or two of 8 columns each.
//          Lane l holds columns l/4, l/4+8 of each 16, rows 2(l%4) + {0,1} of each 8
// Smem     for each warp two turns of x and of the scales and zero points that begin there; then the sums of all warps
// Turn     two tiles. Codes go from memory straight to registers, eight loads of 16 bytes ahead, the rest a turn ahead. No
//          warp waits for another before the end of a strip
// Sums     a warp's tiles in order, then warps in order. Where a strip has several blocks, each writes its share of the
//          workspace, and gemm_reduce adds them in order. Nothing depends on the number of rows: nor do a row's bits
// Hazards  H1 a turn's copies: waited for, then seen by the warp, all lanes of which have then read the turn before
//          H2 the sums overwrite the turns: of a warp's own, which it has read; the next strip's turns, after all have read
//          H3 rows and columns past the end: x is zero there; w is read at the last unit that exists; not written
// Numerics q - z is exact; products exact; sums of a group in f32 by the tensor cores' rule, then times the scale, in f32;
//          one rounding at the end
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/global.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"
#include "gemm/epilogue.cuh"
#include "int4/dequantize.cuh"
#include "int4/int4_params.cuh"
#include "int4/stream_rows.cuh"

namespace q4 {

template <class C>
class Stream;

template <fragment::Element kElement_, int kRows_>
struct StreamConfig {
  using Params = Int4Params;
  using Warp = Stream<StreamConfig>;
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kRows = kRows_, kCols = kStreamUnits * kUnit;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kResident = 2;  // blocks of a multiprocessor
  static constexpr int kTileQ = kRows, kTileK = kCols, kStages = 2;  // as the host calls them
  static constexpr int kDepth = kTileRows;                           // of a tile: shares are cut between tiles

  using Rows = StreamRows<kRows, kTurn>;
  using Sums = float[kCols / 16][kRows / 8][4];

  static constexpr uint32_t kStageBytes = Rows::kBytes + StreamGroups::kBytes;
  static constexpr uint32_t kWarpBytes = kStages * kStageBytes;
  static constexpr uint32_t kSmemBytes = kWarps * kWarpBytes;
  static_assert(kRows * kCols * 4 <= kWarpBytes, "a warp's sums fit");
};

// A warp's stream.
template <class C>
class Stream {
  static constexpr uint32_t kFrom = kUnitBytes * kTileRows / kUnit;  // bytes of a tile in a column of units

  typename C::Rows rows;
  StreamGroups groups;
  uint64_t codes[kStreamUnits];         // this lane's chunk of each unit, in this turn
  uint4 words[kTurn][2][kStreamUnits];  // of two tiles, two units deep each
  float scale[kStreamUnits][4];
  Offsets<C::kElement> offsets[kStreamUnits];
  typename C::Sums part;  // of rows that share a scale

 public:
  // Adds the products of tiles first to end - 1, of which there are some. unit_of(u): the u-th of the warp's units.
  template <class UnitOf>
  __device__ __forceinline__ void run(typename C::Sums& sums, const Int4Params& params, uint32_t shared, int first_row,
                                      int first, int end, UnitOf&& unit_of) {
    const GemmParams& p = params.gemm;
    int turn = first / kTurn * kTurn;  // by its first tile
    const int64_t column = static_cast<int64_t>((p.k - 1) / kTileRows + 1) * kFrom;
    unroll<0, kStreamUnits>([&](auto u) {
      const Unit unit = unit_of(u);
      codes[u] = ptx::opaque(ptx::global_address(unit.up ? p.w_up : p.w) + unit.index * column +
                             static_cast<int64_t>(turn) * kFrom + threadIdx.x % 32 * 16);
      offsets[u].set(0x8888);
    });
    if (turn >= first) load<0, 0>();
    if (turn + 1 < end) load<1, 0>();
    rows.template start<C::kStageBytes>(p, shared, first_row, turn);
    groups.start(params, shared + C::Rows::kBytes, turn, unit_of);
    copy(p, 0, turn, end, true);
    uint32_t stage = 0;
    bool begins = true;
    const auto next = [&] {
      turn += kTurn;
      stage = C::kStageBytes - stage;
      unroll<0, kStreamUnits>([&](auto u) { codes[u] = ptx::opaque(codes[u] + kTurn * kFrom); });
    };
    const int all = min(end, p.k / kTileRows);  // tiles all of whose rows exist
    while (true) {
      if (groups.shift != 1 && turn >= first && turn + 2 * kTurn <= all) {
        begins = begins || groups.begin(turn);
        if (groups.shift == 0) {
          fast<0>(sums, stage, begins, turn, all, end, next);
        } else {
          fast<2>(sums, stage, begins, turn, all, end, next);
        }
      }
      // A turn of any kind.
      ptx::cp_async_wait_group<0>();
      __syncwarp();  // H1
      const bool more = turn + kTurn < end;
      if (more) copy(p, C::kStageBytes - stage, turn + kTurn, end, groups.begin(turn + kTurn));
      begins = begins || groups.begin(turn);
      const bool odd = turn < first;  // the first half is not this warp's
      if (!odd) multiply<0>(sums, stage, begins, false);
      if (more) load<0, kTurn>();
      if (turn + 1 < end) multiply<1>(sums, stage, begins, odd);
      if (!more) break;
      if (turn + kTurn + 1 < end) load<1, kTurn>();
      begins = false;
      next();
    }
  }

 private:
  // Turns as long as all of them, and of the next, exists.
  template <int kShift, class Next>
  __device__ __forceinline__ void fast(typename C::Sums& sums, uint32_t& stage, bool& begins, int& turn, int all, int end,
                                       Next&& next) {
#pragma unroll 1
    do {
      ptx::cp_async_wait_group<0>();
      __syncwarp();  // H1
      const bool next_begins = kShift < 2 || groups.begin(turn + kTurn);
      rows.copy(C::kStageBytes - stage);
      if (next_begins) groups.copy<true>(C::kStageBytes - stage, turn + kTurn, end);
      ptx::cp_async_commit_group();
      if (kShift == 2 && begins) groups.load(scale, offsets, stage, 0);
      unroll<0, 2 * kTurn>([&](auto i) {
        if constexpr (kShift < 2) groups.load(scale, offsets, stage, i);
        this->template multiply_row<i / 2, i % 2, kShift != 2 || i == 0>(stage);
        if constexpr (kShift < 2 || i == 3) add(sums);
        if constexpr (i % 2 == 1) {
          load<i / 2, kTurn>();
          __syncwarp();  // keeps the assembler from putting the loads off
        }
      });
      begins = next_begins;
      next();
    } while (turn + 2 * kTurn <= all);
  }

  // A turn of x and of the groups that begin there.
  __device__ __forceinline__ void copy(const GemmParams& p, uint32_t stage, int turn, int end, bool begins) {
    if ((turn + kTurn) * kTileRows <= p.k) {
      rows.copy(stage);
    } else {
      rows.copy_last(p, stage, turn);
    }
    if (begins) groups.copy<false>(stage, turn, end);
    ptx::cp_async_commit_group();
  }

  // A half of the turn that comes kAhead tiles after this one.
  template <int kHalf, int kAhead>
  __device__ __forceinline__ void load() {
    unroll<0, 2>([&](auto row) {
      unroll<0, kStreamUnits>([&](auto u) {
        words[kHalf][row][u] = ptx::ld_global_cg_16<(kHalf + kAhead) * kFrom + row * kUnitBytes>(codes[u]);
      });
    });
  }

  // A half of a turn, whatever its groups. odd: it is all there is of the turn.
  template <int kHalf>
  __device__ __forceinline__ void multiply(typename C::Sums& sums, uint32_t stage, bool begins, bool odd) {
    unroll<0, 2>([&](auto row) {
      const int unit = 2 * kHalf + row, slot = unit >> groups.shift;
      if (begins && (odd || slot << groups.shift == unit)) groups.load(scale, offsets, stage, slot);
      this->template multiply_row<kHalf, row, true>(stage);
      add(sums);
    });
  }

  // Units of a half of the turn: adds to part, or sets it.
  template <int kHalf, int kRow, bool kSets>
  __device__ __forceinline__ void multiply_row(uint32_t stage) {
    uint32_t x[C::kRows / 8][4];
    rows.template load<kHalf, kRow>(x, stage);
    unroll<0, 2>([&](auto step) {
      unroll<0, kStreamUnits>([&](auto u) {
        const uint4& w = words[kHalf][kRow][u];
        this->template multiply_word<kSets && step == 0>(2 * u, step == 0 ? w.x : w.z, u, 0, x, step);
        this->template multiply_word<kSets && step == 0>(2 * u + 1, step == 0 ? w.y : w.w, u, 1, x, step);
      });
    });
  }

  template <bool kFirst>
  __device__ __forceinline__ void multiply_word(int block, uint32_t word, int u, int b, const uint32_t (&x)[C::kRows / 8][4],
                                                int step) {
    uint32_t d[4];
    units(d, word, offsets[u], b);
    const uint32_t a[4] = {d[0], d[2], d[1], d[3]};
#pragma unroll
    for (int t = 0; t < C::kRows / 8; ++t) {
      if constexpr (kFirst) {
        fragment::mma_from_zero<C::kElement>(part[block][t], a, x[t][2 * step], x[t][2 * step + 1]);
      } else {
        fragment::mma<C::kElement>(part[block][t], a, x[t][2 * step], x[t][2 * step + 1]);
      }
    }
  }

  // The sums of a group, times its scale.
  __device__ __forceinline__ void add(typename C::Sums& sums) {
#pragma unroll
    for (int block = 0; block < C::kCols / 16; ++block)
#pragma unroll
      for (int t = 0; t < C::kRows / 8; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float s = scale[block / 2][block % 2 * 2 + i / 2];
          sums[block][t][i] = fmaf(part[block][t][i], s, sums[block][t][i]);
        }
  }
};

// Where a chunk of eight columns of a row lies among a warp's sums, as f32: chunks of four rows do not collide.
template <class C>
__device__ __forceinline__ int sums_at(int row, int chunk) {
  return row * C::kCols + (chunk ^ row / 2 % 4) * gemm::kChunkCols;
}

template <class C>
__device__ __forceinline__ void store_sums(float* to, const typename C::Sums& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int block = 0; block < C::kCols / 16; ++block)
#pragma unroll
    for (int t = 0; t < C::kRows / 8; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[sums_at<C>(8 * t + fragment::acc_col(lane, i), 2 * block + i / 2) + lane / 4] = sums[block][t][i];
      }
}

// Adds the warps' chunks, in order.
template <class C>
__device__ __forceinline__ void add_warps(gemm::Chunk& to, const unsigned char* smem, int row, int chunk) {
#pragma unroll 1
  for (int warp = 0; warp < C::kWarps; ++warp) {
    const float4* from = reinterpret_cast<const float4*>(smem + warp * C::kWarpBytes) + sums_at<C>(row, chunk) / 4;
    const int swap = (chunk / 4 + row) % 2;  // which half first: eight lanes do not collide
    const float4 a = from[swap], b = from[swap ^ 1];
    const float4 low = swap ? b : a, high = swap ? a : b;
    to[0] += low.x, to[1] += low.y, to[2] += low.z, to[3] += low.w;
    to[4] += high.x, to[5] += high.y, to[6] += high.z, to[7] += high.w;
  }
}

// What a block has of a strip.
struct Part {
  int slot;   // which of the strip's blocks it is
  bool last;  // whether it is the last
};

template <class C>
__device__ __forceinline__ void finish_strip(const GemmParams& p, const unsigned char* smem, int first_row, int first_col,
                                             Part part) {
  static_assert(C::kCols / gemm::kChunkCols == 8, "chunks of a row, in three bits of the thread's number");
  const bool gated = p.w_up != nullptr;
  const int chunks = 8 >> gated, down = threadIdx.x >> (3 - gated), chunk = threadIdx.x & (chunks - 1);
  const int row = first_row + down, col = first_col + chunk * gemm::kChunkCols;
  if (down >= C::kRows || row >= p.m) return;
  const gemm::Finish<C::kElement> finish(p, gated, col);
  if (finish.exist <= 0) return;
  gemm::Chunk z = {}, u = {};
  add_warps<C>(z, smem, down, chunk);
  if (gated) add_warps<C>(u, smem, down, chunk + chunks);
  if (p.partial == nullptr) {
    finish.row(z, u, row);
    return;
  }
#pragma unroll 1
  for (int slot = part.slot; slot < (part.last ? p.splits : part.slot + 1); ++slot) {  // those left over: zeros
    gemm::store_partial(p, slot, row, col, z, u);
#pragma unroll
    for (int i = 0; i < gemm::kChunkCols; ++i) z[i] = u[i] = 0.0f;
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void stream(const typename C::Params& params) {
  extern __shared__ __align__(128) unsigned char smem[];
  const GemmParams& p = params.gemm;
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  const bool gated = p.w_up != nullptr;
  const int strip_cols = gated ? C::kCols / 2 : C::kCols;
  const int64_t strips = (p.n - 1) / strip_cols + 1, tiles = (p.k + C::kDepth - 1) / C::kDepth;
  const int tiles_m = (p.m - 1) / C::kRows + 1;
  const int64_t shares = gridDim.x / tiles_m, share = blockIdx.x / tiles_m;

  // Whole strips if nothing is to be added up, else tiles wherever they are.
  const bool whole = p.partial == nullptr;
  const int64_t work = whole ? strips : strips * tiles, strip_work = whole ? 1 : tiles;
  const int64_t from = work * share / shares, to = work * (share + 1) / shares;
  const int first_row = blockIdx.x % tiles_m * C::kRows;
  const uint32_t shared = ptx::shared_address(smem) + warp * C::kWarpBytes;
#pragma unroll 1
  for (int64_t at = from; at < to;) {
    const int strip = at / strip_work;
    const int64_t begin = strip * strip_work, end = min(begin + strip_work, to);
    const int tile_first = whole ? 0 : at - begin, strip_tiles = (whole ? tiles : end - begin) - tile_first;
    const int first = tile_first + strip_tiles * warp / C::kWarps, last = tile_first + strip_tiles * (warp + 1) / C::kWarps;
    const auto unit_of = [&](int u) {
      const int unit = strip * (gated ? 1 : kStreamUnits) + (gated ? 0 : u);
      return Unit{min(unit, (p.n - 1) / kUnit), gated && u > 0};  // H3
    };
    typename C::Sums sums = {};
    if (first < last) {
      typename C::Warp stream;
      stream.run(sums, params, shared, first_row, first, last, unit_of);
    }
    __syncwarp();  // H2
    store_sums<C>(reinterpret_cast<float*>(smem + warp * C::kWarpBytes), sums);
    __syncthreads();
    const int slot = whole ? 0 : share - ((begin + 1) * shares - 1) / work;
    const Part part{slot, end == begin + strip_work};
    finish_strip<C>(p, smem, first_row, strip * strip_cols, part);
    __syncthreads();  // H2
    at = end;
  }
}

}  // namespace q4
