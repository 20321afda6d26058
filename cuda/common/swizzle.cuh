// Where a 16-byte chunk of a tile lives in shared memory.
//
// A tile is [rows][kRowBytes]. Rows are whole lines: of 128 bytes, 8 chunks, if that divides a row, else of 64 bytes, 4
// chunks. Within each line of row r, chunk c is stored at c ^ (r % 8), or at c ^ (r / 2 % 4) if lines have 4 chunks: two
// rows then share a pattern, but being an odd number of lines apart they differ in the upper half of the banks. Hence
// eight lanes that access the same chunk of eight consecutive rows (ldmatrix), eight consecutive chunks of a row, or four
// of two (cp.async, 16-byte loads), or a 4×8 block of 4-byte words in eight rows (the epilogue) meet all 32 banks once.
#pragma once

#include <cstdint>

namespace swizzle {

constexpr int kChunkBytes = 16;

// Chunks and bytes of a line, for a row length.
template <int kRowBytes>
constexpr int kLineChunks = kRowBytes % 128 == 0 ? 8 : 4;
template <int kRowBytes>
constexpr int kLineBytes = kLineChunks<kRowBytes> * kChunkBytes;

// Byte offset of chunk `chunk` of row `row`.
template <int kRowBytes>
__host__ __device__ constexpr uint32_t offset(uint32_t row, uint32_t chunk) {
  static_assert(kRowBytes % kLineBytes<kRowBytes> == 0, "rows are whole lines");
  constexpr uint32_t kPatterns = kLineChunks<kRowBytes>;
  return row * kRowBytes + (chunk ^ (row / (8 / kPatterns) % kPatterns)) * kChunkBytes;
}

// The order in which to visit a row's pairs of chunks: those that share an address register come together.
template <int kRowBytes>
__host__ __device__ constexpr int pair(int i) {
  constexpr int kLines = kRowBytes / kLineBytes<kRowBytes>;
  return i / kLines + i % kLines * (kLineChunks<kRowBytes> / 2);
}

// An address made by `offset`, of a tile aligned to 128 bytes and of chunk 0 or 1, moves on by 2·pair chunks and
// 16·block rows in two parts: only the low bits of the pair touch the register, all else is an immediate.
template <int kRowBytes>
__host__ __device__ constexpr uint32_t turn(uint32_t address, int pair) {
  return address ^ static_cast<uint32_t>(pair % (kLineChunks<kRowBytes> / 2) * 2 * kChunkBytes);
}
template <int kRowBytes>
__host__ __device__ constexpr int immediate(int pair, int block) {
  return pair / (kLineChunks<kRowBytes> / 2) * kLineBytes<kRowBytes> + block * 16 * kRowBytes;
}

}  // namespace swizzle
