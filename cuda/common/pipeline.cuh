// Asynchronous copies of row tiles from global to swizzled shared memory.
//
// The neighbouring lanes of a line's chunks copy that line, so that every request is whole lines; the lines of a row go to
// the same thread, so that a row's address is computed once. With lines of c chunks, thread t starts at row t/c, chunk t%c
// and takes every kThreads/c-th row.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

template <int kThreads, int kRowBytes>
class TileCopy {
 public:
  static constexpr int kLineChunks = swizzle::kLineChunks<kRowBytes>;
  static constexpr int kStep = kThreads / kLineChunks;  // rows between two of a thread's rows
  static constexpr int kLines = kRowBytes / swizzle::kLineBytes<kRowBytes>;
  static_assert(kStep % 8 == 0, "a thread's rows share one swizzle pattern");

  static __device__ __forceinline__ uint32_t row(uint32_t tid) { return tid / kLineChunks; }
  static __device__ __forceinline__ uint32_t chunk(uint32_t tid) { return tid % kLineChunks; }

  // Offset of the thread's first chunk within the tile.
  static __device__ __forceinline__ uint32_t offset(uint32_t tid) {
    return swizzle::offset<kRowBytes>(row(tid), chunk(tid));
  }

  // How many of the thread's lines hold elements of rows that have only `elements`, a multiple of 8.
  static __device__ __forceinline__ int lines(uint32_t tid, int elements) {
    return (elements / 8 - static_cast<int>(chunk(tid)) + kLineChunks - 1) / kLineChunks;
  }

  // Rows that follow each other: a thread's are copied the last first. `source` is its chunk of that row in global memory
  // and `back_bytes` leads to the row before. Each copy leaves `source` at the next row to copy, in the end at the last
  // row of the tile before this one: a walk backwards over tiles costs no address arithmetic beyond one addition per row.

  // Copies a whole tile. `shared` is the thread's first chunk of it.
  template <int kRows>
  static __device__ __forceinline__ void full(uint32_t shared, uint64_t& source, int64_t back_bytes) {
    static_assert(kRows % kStep == 0, "whole steps");
    unroll<0, kRows / kStep>([&](auto step) {
      constexpr int i = kRows / kStep - 1 - step;
      unroll<0, kLines>([&](auto line) { ptx::cp_async_cg_16<to(i, line), from(line)>(shared, source); });
      source = ptx::opaque(source + back_bytes);
    });
  }

  // Copies a tile of which only the thread's rows i with i·kStep < rows_left exist, and of these only the first `lines` of
  // the thread's lines: all else becomes zeros, and `existing`, the thread's chunk of any row that exists, stands in for
  // the address of a row that does not.
  template <int kRows>
  static __device__ __forceinline__ void bounded(uint32_t shared, uint64_t& source, int64_t back_bytes,
                                                 int rows_left, uint64_t existing, int lines = kLines) {
    static_assert(kRows % kStep == 0, "whole steps");
    unroll<0, kRows / kStep>([&](auto step) {
      constexpr int i = kRows / kStep - 1 - step;
      const bool exists = i * kStep < rows_left;
      const uint64_t row = exists ? source : existing;
      unroll<0, kLines>([&](auto line) {
        const uint32_t valid = exists && line < lines ? swizzle::kChunkBytes : 0;
        ptx::cp_async_cg_16<to(i, line), from(line)>(shared, row, valid);
      });
      source = ptx::opaque(source + back_bytes);
    });
  }

  // Rows that lie anywhere: row r of the tile begins 16·offsets[r] bytes behind the tensor's first. `base` is the thread's
  // chunk of that first row, `offsets` the entry of the thread's first row. Of each row, the first `lines` lines are copied
  // and the others left alone.

  // In place of the offset of a row that does not exist.
  static constexpr uint32_t kAbsent = 0xffffffffu;

  // Copies a tile. If rows may be absent, these become zeros.
  template <int kRows, bool kMayLack>
  static __device__ __forceinline__ void gathered(uint32_t shared, uint64_t base, const uint32_t* offsets,
                                                  int lines = kLines) {
    static_assert(kRows % kStep == 0, "whole steps");
    uint32_t offset[kRows / kStep];  // all reads first: between a read and a copy the assembler waits for shared memory
    unroll<0, kRows / kStep>([&](auto i) { offset[i] = offsets[i * kStep]; });
    unroll<0, kRows / kStep>([&](auto i) {
      const uint64_t row = base + static_cast<uint64_t>(offset[i]) * swizzle::kChunkBytes;
      const uint32_t valid = offset[i] != kAbsent ? swizzle::kChunkBytes : 0;  // nothing is read if this is 0
      unroll<0, kLines>([&](auto line) {
        if (line >= lines) return;
        if (kMayLack) {
          ptx::cp_async_cg_16<to(i, line), from(line)>(shared, row, valid);
        } else {
          ptx::cp_async_cg_16<to(i, line), from(line)>(shared, row);
        }
      });
    });
  }

  // Zeros for the thread's lines from `first_line` on, in all rows of a tile.
  template <int kRows>
  static __device__ __forceinline__ void clear(uint32_t shared, int first_line) {
    unroll<0, kRows / kStep>([&](auto i) {
      unroll<0, kLines>([&](auto line) {
        if (line >= first_line) ptx::st_shared_zero_16<to(i, line)>(shared);
      });
    });
  }

  // Zeros for those of the thread's rows whose bit in `rows`, one for each row of the tile, is not set.
  template <int kRows, int kWords>
  static __device__ __forceinline__ void keep(uint32_t shared, const uint32_t (&rows)[kWords], uint32_t tid) {
    unroll<0, kRows / kStep>([&](auto i) {
      const uint32_t r = row(tid) + i * kStep;
      uint32_t word = rows[0];
      unroll<1, kWords>([&](auto w) { word = r / 32 == w ? rows[w] : word; });
      if (word >> r % 32 & 1) return;
      unroll<0, kLines>([&](auto line) { ptx::st_shared_zero_16<to(i, line)>(shared); });
    });
  }

 private:
  // From the thread's first chunk to line `line` of its row i, in the tile, and of the same row in global memory.
  static __host__ __device__ constexpr int to(int i, int line) {
    return i * kStep * kRowBytes + line * swizzle::kLineBytes<kRowBytes>;
  }
  static __host__ __device__ constexpr int from(int line) { return line * swizzle::kLineBytes<kRowBytes>; }
};
