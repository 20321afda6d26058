// Where a 16-byte chunk of a tile lives in shared memory.
//
// A tile is [rows][kRowBytes], kRowBytes a multiple of 128. Within each 128-byte line of row r, chunk c is stored at
// c ^ (r % 8). Hence eight lanes that access the same chunk of eight consecutive rows (ldmatrix), eight consecutive
// chunks of one row (cp.async, 16-byte loads) or a 4×8 block of 4-byte words in eight rows (the epilogue) meet all
// 32 banks once.
#pragma once

#include <cstdint>

namespace swizzle {

constexpr int kChunkBytes = 16;
constexpr int kLineChunks = 8;
constexpr int kLineBytes = kLineChunks * kChunkBytes;

// Byte offset of chunk `chunk` of row `row`.
template <int kRowBytes>
__host__ __device__ constexpr uint32_t offset(uint32_t row, uint32_t chunk) {
  static_assert(kRowBytes % kLineBytes == 0, "rows are whole 128-byte lines");
  return row * kRowBytes + (chunk ^ (row % kLineChunks)) * kChunkBytes;
}

// The order in which to visit a row's pairs of chunks: those that share an address register come together.
template <int kRowBytes>
__host__ __device__ constexpr int pair(int i) {
  constexpr int kLines = kRowBytes / kLineBytes;
  return i / kLines + i % kLines * (kLineChunks / 2);
}

// An address made by `offset`, of a tile aligned to 128 bytes and of chunk 0 or 1, moves on by 2·pair chunks and
// 16·block rows in two parts: only the low bits of the pair touch the register, all else is an immediate.
__host__ __device__ constexpr uint32_t turn(uint32_t address, int pair) {
  return address ^ static_cast<uint32_t>(pair % (kLineChunks / 2) * 2 * kChunkBytes);
}
template <int kRowBytes>
__host__ __device__ constexpr int immediate(int pair, int block) {
  return pair / (kLineChunks / 2) * kLineBytes + block * 16 * kRowBytes;
}

}  // namespace swizzle
