// Eight 4-bit codes of a word to the operands of two tensor operations.
//
// A code q placed into the mantissa of 1024 (f16) or 128 (bf16) is 1024 + q, or 128 + q, exactly: one three-input logic
// operation for two codes. Subtracting what does not belong there leaves q - z, exactly; multiplying by the scale rounds,
// once. A fused multiply-add of both would round the product of the scale and 1024, which is far larger than the result.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/half2.cuh"

namespace q4 {

// What is subtracted from the codes of a unit's 32 columns: this lane's are lane / 4 + 8j. Pair b: columns j = 2b and
// 2b + 1.
template <fragment::Element kElement>
struct Offsets {
  uint32_t low[2], high[2];  // for codes in bits 0-3 and in bits 4-7 of the mantissa; bf16 has no room for the latter

  // zeros: of the four columns, a nibble each, in the order 0 2 1 3; 0x8888 where codes are symmetric.
  __device__ __forceinline__ void set(uint32_t zeros) {
    const uint32_t spread = ptx::prmt<0x4140>(zeros, 0);  // 0, 2 and 1, 3 in the low bytes of both halves
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if constexpr (kElement == fragment::Element::kF16) {
        low[b] = ptx::and_or(spread >> 4 * b, 0x000f000f, 0x64006400);  // 1024 + z
        high[b] = ptx::sub_f16x2(0x63806380, low[b]);                   // 960 - 1024 - z = -(64 + z)
      } else {
        low[b] = ptx::and_or(spread >> 4 * b, 0x000f000f, 0xc300c300);  // -(128 + z)
      }
    }
  }
};

// word: two blocks of eight columns, of 16 rows. d[0..2] and d[2..4] become q - z of the blocks. b: which pair of the unit's
// columns.
__device__ __forceinline__ void units_f16(uint32_t (&d)[4], uint32_t word, const Offsets<fragment::Element::kF16>& offsets,
                                          int b) {
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    const uint32_t codes = word >> 8 * block;
    const uint32_t low = ptx::and_or(codes, 0x000f000f, 0x64006400);   // 1024 + q
    const uint32_t high = ptx::and_or(codes, 0x00f000f0, 0x64006400);  // 1024 + 16q
    const uint32_t z_low = block == 0 ? ptx::low_twice(offsets.low[b]) : ptx::high_twice(offsets.low[b]);
    const uint32_t z_high = block == 0 ? ptx::low_twice(offsets.high[b]) : ptx::high_twice(offsets.high[b]);
    d[2 * block] = ptx::sub_f16x2(low, z_low);
    d[2 * block + 1] = ptx::fma_f16x2(high, 0x2c002c00, z_high);  // 1/16
  }
}

__device__ __forceinline__ void units_bf16(uint32_t (&d)[4], uint32_t word,
                                           const Offsets<fragment::Element::kBf16>& offsets, int b) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t codes = ptx::and_or(word >> 4 * pair, 0x000f000f, 0x43004300);  // 128 + q
    const uint32_t z = pair < 2 ? ptx::low_twice(offsets.low[b]) : ptx::high_twice(offsets.low[b]);
    d[pair] = ptx::fma_bf16x2(codes, 0x3f803f80, z);  // ·1
  }
}

template <fragment::Element kElement>
__device__ __forceinline__ void units(uint32_t (&d)[4], uint32_t word, const Offsets<kElement>& offsets, int b) {
  if constexpr (kElement == fragment::Element::kF16) {
    units_f16(d, word, offsets, b);
  } else {
    units_bf16(d, word, offsets, b);
  }
}

// The same times the scale. scales: of this lane's column in each block.
template <fragment::Element kElement>
__device__ __forceinline__ void dequantize(uint32_t (&d)[4], uint32_t word, uint32_t scales,
                                           const Offsets<kElement>& offsets, int b) {
  units(d, word, offsets, b);
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    const uint32_t scale = block == 0 ? ptx::low_twice(scales) : ptx::high_twice(scales);
#pragma unroll
    for (int pair = 2 * block; pair < 2 * block + 2; ++pair) {
      if constexpr (kElement == fragment::Element::kF16) {
        d[pair] = ptx::mul_f16x2(d[pair], scale);
      } else {
        d[pair] = ptx::fma_bf16x2(d[pair], scale, 0x80008000);  // + -0
      }
    }
  }
}

}  // namespace q4
