// From the bytes of a cache to operands of tensor operations, in registers and exactly.
//
// Four neighbouring bytes of a row, as a matrix load leaves them in a register, become two pairs of f16: the first byte and
// the third, and the second and the fourth. Bytes stay in their halves of the register, so that nothing has to be gathered;
// whoever multiplies by the pairs has his columns in their order.
#pragma once

#include <cstdint>

#include "common/half2.cuh"
#include "kv/format.cuh"

namespace decode {

using kv::Format;

// What pairs hold instead of what bytes stand for: a multiple of it.
//
// E4M3: sign, exponent and mantissa, moved to their places in f16, give 2^-8 times the number, subnormals too. NaN (all
// ones) would give 1.875, the largest number, 448, gives 1.75. Times 36864 = 1.125·2^15, exactly, what was 1.75 is still
// finite in f16 and what was 1.875 is infinite.
template <Format kFormat>
constexpr float kGain = kFormat == Format::kE4m3 ? 144.0f : 1.0f;

// Whether NaN is infinite in pairs. Nothing else is then.
template <Format kFormat>
constexpr bool kNanIsInfinite = kFormat == Format::kE4m3;

// The pairs of four bytes, times kGain.
template <Format kFormat>
__device__ __forceinline__ void dequantise(uint32_t bytes, uint32_t& first_third, uint32_t& second_fourth) {
  if constexpr (kFormat == Format::kE4m3) {
    constexpr uint32_t kSigns = 0x80008000, kMagnitudes = 0x3f803f80, kTwice36864 = 0x78807880;
    // Products instead of shifts to the left: they go to another pipe than all the rest.
    first_third = ptx::mul_f16x2(bytes * 256 & kSigns | bytes * 128 & kMagnitudes, kTwice36864);
    second_fourth = ptx::mul_f16x2(bytes & kSigns | bytes >> 1 & kMagnitudes, kTwice36864);
  } else if constexpr (kFormat == Format::kE5m2) {  // the upper half of an f16
    first_third = __byte_perm(bytes, 0, 0x2404);
    second_fourth = bytes & 0xff00ff00;
  } else {  // b + 128 in the last places of 1024 + b + 128
    constexpr uint32_t kFour128 = 0x80808080, kFour64 = 0x64646464, kTwice1152 = 0x64806480;
    bytes ^= kFour128;
    first_third = ptx::sub_f16x2(__byte_perm(bytes, kFour64, 0x4240), kTwice1152);
    second_fourth = ptx::sub_f16x2(__byte_perm(bytes, kFour64, 0x4341), kTwice1152);
  }
}

// A sum of products with pairs: NaN if one of them was.
template <Format kFormat>
__device__ __forceinline__ float with_nan(float sum) {
  return kNanIsInfinite<kFormat> ? fmaf(sum, 0.0f, sum) : sum;
}

}  // namespace decode
