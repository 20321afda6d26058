// Operands of a matrix product on their way from global memory to tensor operations.
//
// An operand has a ring of kStages tiles in shared memory, each kDepth columns of K deep. It offers
//   kBlocks, Fragments              16 rows (A) or 16 columns (B) each, of 16 along K
//   start(...)                      computes this thread's addresses
//   copy<stage, ahead>()            copies the next tile; `ahead` tiles have been copied since the last `advance`
//   copy_last(stage, ahead, exist)  the same with `exist` > 0 columns of K, the others become zeros; numbers known late
//   advance(tiles)                  as many tiles have been copied
//   load<stage>(f, step, more)      fragments of the step-th 16 columns of K, of stage + more
// The main loop knows no more: an operand that is stored otherwise, quantized for instance, brings its own.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace gemm {

// Which registers of an ldmatrix.x4 belong together: those of a 16×16 A operand, or of two 8-column B operands.
enum class Side { kA, kB };

constexpr int kChunkCols = swizzle::kChunkBytes / 2;

// kRows rows along M or N, K contiguous: x, and w as [n, k]. A thread copies one chunk of every kStep-th row. Each of
// these has an address of its own, so that rows may lie anywhere.
template <class C, Side kSide, int kRows, int kWarpRows>
class RowOperand {
  static constexpr int kRowBytes = C::kDepth * 2;
  static constexpr int kChunks = kRowBytes / swizzle::kChunkBytes;
  static constexpr int kStep = C::kThreads / kChunks;
  static constexpr int kCopies = kRows / kStep;
  static_assert(kRows % kStep == 0 && kStep % 8 == 0, "a thread's rows share one swizzle pattern");

  uint64_t source[kCopies];  // this thread's chunk of each of its rows
  uint32_t target;           // where the first goes, in stage 0
  uint32_t fragments;        // this lane's ldmatrix address in stage 0

  template <int kStage>
  static __host__ __device__ constexpr int to(int i) {
    return kStage * kStageBytes + i * kStep * kRowBytes;
  }

 public:
  static constexpr int kBlocks = kWarpRows / 16;
  static constexpr int kStageBytes = kRows * kRowBytes;
  using Fragments = uint32_t[kBlocks][4];

  // shared: of stage 0. warp_row: where the warp's rows begin. address(row): where a row of the tile begins.
  template <class Address>
  __device__ __forceinline__ void start(uint32_t shared, uint32_t warp_row, Address&& address) {
    const uint32_t tid = threadIdx.x, lane = tid % 32, row = tid / kChunks, chunk = tid % kChunks;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] = address(row + i * kStep) + chunk * swizzle::kChunkBytes;
    target = ptx::opaque(shared + swizzle::offset<kRowBytes>(row, chunk));
    fragments = shared + warp_row * kRowBytes +
                (kSide == Side::kA ? swizzle::offset<kRowBytes>(fragment::a_row(lane), fragment::a_chunk(lane))
                                   : swizzle::offset<kRowBytes>(fragment::b_nk_row(lane), fragment::b_nk_chunk(lane)));
  }

  template <int kStage, int kAhead>
  __device__ __forceinline__ void copy() {
    unroll<0, kCopies>([&](auto i) { ptx::cp_async_cg_16<to<kStage>(i), kAhead * kRowBytes>(target, source[i]); });
  }

  __device__ __forceinline__ void copy_last(int stage, int ahead, int exist) {
    const int before = threadIdx.x % kChunks * swizzle::kChunkBytes;
    const int valid = min(max(2 * exist - before, 0), swizzle::kChunkBytes);
    const int at = ahead * kRowBytes - (valid > 0 ? 0 : before);  // the tile's first chunk exists
    const uint32_t ring = target + stage * kStageBytes;
    unroll<0, kCopies>([&](auto i) { ptx::cp_async_cg_16<to<0>(i), 0>(ring, source[i] + at, valid); });
  }

  __device__ __forceinline__ void advance(int tiles) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] = ptx::opaque(source[i] + tiles * kRowBytes);
  }

  template <int kStage>
  __device__ __forceinline__ void load(Fragments& f, int step, int more = 0) const {
    unroll<0, kBlocks>([&](auto b) {
      constexpr int at = kStage * kStageBytes + swizzle::immediate<kRowBytes>(0, b);
      ptx::ldmatrix_x4<at>(f[b], swizzle::turn<kRowBytes>(fragments, step) + more * kStageBytes);
    });
  }
};

// kCols columns along N, of which a multiple of 8 exist, N contiguous: w as [k, n]. A thread copies one chunk of every line of every kStep-th row.
template <class C, int kCols, int kWarpCols>
class ColumnOperand {
  static constexpr int kRowBytes = kCols * 2;
  static constexpr int kLineBytes = swizzle::kLineBytes<kRowBytes>, kLineChunks = swizzle::kLineChunks<kRowBytes>;
  static constexpr int kLines = kRowBytes / kLineBytes;
  static constexpr int kStep = C::kThreads / kLineChunks;
  static constexpr int kCopies = C::kDepth / kStep;
  static_assert(C::kDepth % kStep == 0 && kStep % 8 == 0, "a thread's rows share one swizzle pattern");

  uint64_t source;            // this thread's chunk of the first line, in its next row
  int64_t row_step;           // bytes between two of its rows
  uint32_t line_at[kLines];   // from there to its chunk of each line; those that do not exist repeat the first
  uint32_t target;            // where the first goes, in stage 0
  uint32_t fragments;         // this lane's ldmatrix address in stage 0

  template <int kStage>
  static __host__ __device__ constexpr int to(int i, int line) {
    return kStage * kStageBytes + i * kStep * kRowBytes + line * kLineBytes;
  }

 public:
  static constexpr int kBlocks = kWarpCols / 16;
  static constexpr int kStageBytes = C::kDepth * kRowBytes;
  using Fragments = uint32_t[kBlocks][4];

  // shared: of stage 0. warp_col: where the warp's columns begin. row0: where row 0 begins, for this thread's chunks; col:
  // the first column of these; line_cols: how many further each line is; n: columns that exist; stride: of rows.
  __device__ __forceinline__ void start(uint32_t shared, uint32_t warp_col, uint64_t row0, int col, int line_cols, int n,
                                        int64_t stride) {
    const uint32_t tid = threadIdx.x, lane = tid % 32;
    const uint32_t row = tid / kLineChunks, chunk = tid % kLineChunks;
#pragma unroll
    for (int line = 0; line < kLines; ++line) {
      line_at[line] = col + line * line_cols < n ? 2 * line * line_cols : 0;
    }
    row_step = 2 * kStep * stride;
    source = row0 + 2 * (row * stride + (col < n ? col : 0));
    target = ptx::opaque(shared + swizzle::offset<kRowBytes>(row, chunk));
    fragments = shared + warp_col * 2 / kLineBytes * kLineBytes +
                swizzle::offset<kRowBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane) + warp_col % 64 / 8);
  }

  template <int kStage, int kAhead>
  __device__ __forceinline__ void copy() {
    unroll<0, kCopies>([&](auto i) {
      unroll<0, kLines>([&](auto line) {
        ptx::cp_async_cg_16<to<kStage>(i, line), 0>(target, source + line_at[line]);
      });
      source = ptx::opaque(source + row_step);
    });
  }

  __device__ __forceinline__ void copy_last(int stage, int, int exist) {
    const int row = threadIdx.x / kLineChunks;
    const uint64_t row0 = source - row * (row_step / kStep);  // the tile's first row exists
    const uint32_t ring = target + stage * kStageBytes;
    unroll<0, kCopies>([&](auto i) {
      const bool exists = i * kStep + row < exist;
      const uint64_t from = exists ? source + i * row_step : row0;
      unroll<0, kLines>([&](auto line) {
        ptx::cp_async_cg_16<to<0>(i, line), 0>(ring, from + line_at[line], exists ? swizzle::kChunkBytes : 0);
      });
    });
  }

  __device__ __forceinline__ void advance(int) {}

  template <int kStage>
  __device__ __forceinline__ void load(Fragments& f, int step, int more = 0) const {
    unroll<0, kBlocks>([&](auto b) {
      ptx::ldmatrix_x4_trans<kStage * kStageBytes>(
          f[b], swizzle::turn<kRowBytes>(fragments, b) + step * 16 * kRowBytes + more * kStageBytes);
    });
  }
};

// kRows rows along M or N, elements anywhere: any stride, no alignment. Slow: it copies element by element, without
// running ahead. The tiles in shared memory are those of RowOperand.
template <class C, Side kSide, int kRows, int kWarpRows>
class ElementOperand {
  static constexpr int kRowBytes = C::kDepth * 2;
  static constexpr int kChunks = kRowBytes / swizzle::kChunkBytes;
  static constexpr int kStep = C::kThreads / kChunks;
  static constexpr int kCopies = kRows / kStep;

  const uint16_t* source[kCopies];  // this thread's chunk of each of its rows
  int64_t element_step;             // elements from one column of K to the next
  unsigned char* target;            // where the first goes, in stage 0
  RowOperand<C, kSide, kRows, kWarpRows> tile;

 public:
  static constexpr int kBlocks = kWarpRows / 16;
  static constexpr int kStageBytes = kRows * kRowBytes;
  using Fragments = uint32_t[kBlocks][4];

  // As RowOperand's; tiles: stage 0; step: elements between two columns of K; address(row) of an element.
  template <class Address>
  __device__ __forceinline__ void start(unsigned char* tiles, uint32_t warp_row, int64_t step, Address&& address) {
    const uint32_t tid = threadIdx.x, row = tid / kChunks, chunk = tid % kChunks;
    element_step = step;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] = address(row + i * kStep) + chunk * kChunkCols * step;
    target = tiles + swizzle::offset<kRowBytes>(row, chunk);
    tile.start(ptx::shared_address(tiles), warp_row, [](int) { return uint64_t{0}; });
  }

  template <int kStage, int kAhead>
  __device__ __forceinline__ void copy() {
    copy_last(kStage, kAhead, C::kDepth);
  }

  __device__ __forceinline__ void copy_last(int stage, int ahead, int exist) {
    const int64_t at = ahead * C::kDepth * element_step;
    const int left = exist - static_cast<int>(threadIdx.x % kChunks) * kChunkCols;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      uint32_t pairs[kChunkCols / 2] = {};
#pragma unroll
      for (int e = 0; e < kChunkCols; ++e) {
        if (e < left) pairs[e / 2] |= static_cast<uint32_t>(source[i][at + e * element_step]) << e % 2 * 16;
      }
      *reinterpret_cast<uint4*>(target + stage * kStageBytes + i * kStep * kRowBytes) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }

  __device__ __forceinline__ void advance(int tiles) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) source[i] += tiles * C::kDepth * element_step;
  }
  template <int kStage>
  __device__ __forceinline__ void load(Fragments& f, int step, int more = 0) const {
    tile.template load<kStage>(f, step, more);
  }
};

}  // namespace gemm
