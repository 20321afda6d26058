// Asynchronous copies of row tiles from global to swizzled shared memory.
//
// Eight neighbouring lanes copy one 128-byte line, so that every request is whole lines; the lines of a row go to the
// same thread, so that a row's address is computed once. Thread t starts at row t/8, chunk t%8 and takes every
// kThreads/8-th row.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

template <int kThreads, int kRowBytes>
class TileCopy {
 public:
  static constexpr int kStep = kThreads / swizzle::kLineChunks;  // rows between two of a thread's rows
  static constexpr int kLines = kRowBytes / swizzle::kLineBytes;
  static_assert(kStep % swizzle::kLineChunks == 0, "a thread's rows share one swizzle pattern");

  static __device__ __forceinline__ uint32_t row(uint32_t tid) { return tid / swizzle::kLineChunks; }
  static __device__ __forceinline__ uint32_t chunk(uint32_t tid) { return tid % swizzle::kLineChunks; }

  // Offset of the thread's first chunk within the tile.
  static __device__ __forceinline__ uint32_t offset(uint32_t tid) {
    return swizzle::offset<kRowBytes>(row(tid), chunk(tid));
  }

  // A thread's rows are copied the last first: `source` is its chunk of that row in global memory and `back_bytes` leads
  // to the row before. Each copy leaves `source` at the next row to copy, in the end at the last row of the tile before
  // this one: a walk backwards over tiles costs no address arithmetic beyond one addition per row.

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

  // Copies a tile of which only the thread's rows i with i·kStep < rows_left exist: the others become zeros, and
  // `existing`, the thread's chunk of any row that exists, stands in for their address.
  template <int kRows>
  static __device__ __forceinline__ void bounded(uint32_t shared, uint64_t& source, int64_t back_bytes,
                                                 int rows_left, uint64_t existing) {
    static_assert(kRows % kStep == 0, "whole steps");
    unroll<0, kRows / kStep>([&](auto step) {
      constexpr int i = kRows / kStep - 1 - step;
      const bool exists = i * kStep < rows_left;
      const uint64_t row = exists ? source : existing;
      const uint32_t valid = exists ? swizzle::kChunkBytes : 0;
      unroll<0, kLines>([&](auto line) { ptx::cp_async_cg_16<to(i, line), from(line)>(shared, row, valid); });
      source = ptx::opaque(source + back_bytes);
    });
  }

 private:
  // From the thread's first chunk to line `line` of its row i, in the tile, and of the same row in global memory.
  static __host__ __device__ constexpr int to(int i, int line) {
    return i * kStep * kRowBytes + line * swizzle::kLineBytes;
  }
  static __host__ __device__ constexpr int from(int line) { return line * swizzle::kLineBytes; }
};
