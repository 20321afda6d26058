// Codes of a word to operands of tensor operations, exactly.
//
// Eight bits: a word is one column, of 16 rows; a code q is stored as u = q + 128.
//   f16   u put into the mantissa of 1024, by one byte permutation for two codes; less 1024 + 128
//   bf16  has seven bits of mantissa: the lower seven of u are put into that of 128; the eighth, inverted, into the exponent
//         of 128, which makes it 256. The difference of the two is q
// Four bits: a word is two columns, of 16 rows, as in int4/dequantize.cuh.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/half2.cuh"
#include "int4/dequantize.cuh"

namespace blocks {

// d: rows 2t and 2t + 1, then those eight further, with t = lane % 4.
template <fragment::Element kElement>
__device__ __forceinline__ void bytes(uint32_t (&d)[2], uint32_t word) {
  if constexpr (kElement == fragment::Element::kF16) {
    d[0] = ptx::sub_f16x2(ptx::prmt<0x4240>(word, 0x64646464), 0x64806480);
    d[1] = ptx::sub_f16x2(ptx::prmt<0x4341>(word, 0x64646464), 0x64806480);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t codes = word >> 8 * i;
      const uint32_t low = ptx::and_or(codes, 0x007f007f, 0x43004300);
      const uint32_t high = ptx::and_or(~codes, 0x00800080, 0x43004300);
      d[i] = ptx::fma_bf16x2(high, 0xbf80bf80, low);  // ·-1
    }
  }
}

// The operand of 16 columns and 16 rows: column l/4 in registers 0 and 2, l/4 + 8 in 1 and 3. words: of this lane, of 16
// rows by 32 columns where codes have eight bits, 32 by 32 where they have four. kStep: which 16 rows. block: which columns.
template <fragment::Element kElement, int kBits>
__device__ __forceinline__ void operand(uint32_t (&a)[4], const uint4& words, int step, int block,
                                        const q4::Offsets<kElement>& zero) {
  if constexpr (kBits == 8) {
    uint32_t left[2], right[2];
    bytes<kElement>(left, block == 0 ? words.x : words.z);
    bytes<kElement>(right, block == 0 ? words.y : words.w);
    a[0] = left[0], a[1] = right[0], a[2] = left[1], a[3] = right[1];
  } else {
    uint32_t d[4];
    const uint32_t word = step == 0 ? (block == 0 ? words.x : words.y) : (block == 0 ? words.z : words.w);
    q4::units(d, word, zero, block);
    a[0] = d[0], a[1] = d[2], a[2] = d[1], a[3] = d[3];
  }
}

}  // namespace blocks
