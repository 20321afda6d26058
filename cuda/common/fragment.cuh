// Fragments of mma.m16n8k16 and the ldmatrix lane patterns that fill them: (lane, i) → (row, column).
//
// The four matrices of an ldmatrix.x4 are ordered so that the two registers of one B operand are neighbours: the
// tensor instruction takes them as an aligned pair, and any other order costs a move per register.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"

namespace fragment {

// Type of the 16-bit matrix elements.
enum class Element { kF16, kBf16 };

// Accumulator register i of a 16×8 block, i in 0..4.
__host__ __device__ constexpr uint32_t acc_row(uint32_t lane, uint32_t i) { return lane / 4 + 8 * (i / 2); }
__host__ __device__ constexpr uint32_t acc_col(uint32_t lane, uint32_t i) { return 2 * (lane % 4) + i % 2; }

// ldmatrix.x4 rows and 16-byte chunks for a 16×16 A operand stored [m][k].
__host__ __device__ constexpr uint32_t a_row(uint32_t lane) { return lane % 16; }
__host__ __device__ constexpr uint32_t a_chunk(uint32_t lane) { return lane / 16; }

// ldmatrix.x4 for two n8 B operands stored [n][k]: n-block j is registers 2j, 2j+1.
__host__ __device__ constexpr uint32_t b_nk_row(uint32_t lane) { return lane % 8 + 8 * (lane / 16); }
__host__ __device__ constexpr uint32_t b_nk_chunk(uint32_t lane) { return lane / 8 % 2; }

// ldmatrix.x4.trans for two n8 B operands stored [k][n]: n-block j is registers 2j, 2j+1.
__host__ __device__ constexpr uint32_t b_kn_row(uint32_t lane) { return lane % 16; }
__host__ __device__ constexpr uint32_t b_kn_chunk(uint32_t lane) { return lane / 16; }

// d += a·b with operands of type kElement.
template <Element kElement>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kElement == Element::kF16) {
    ptx::mma_m16n8k16_f16(d, a, b0, b1);
  } else {
    ptx::mma_m16n8k16_bf16(d, a, b0, b1);
  }
}

// d = a·b with operands of type kElement.
template <Element kElement>
__device__ __forceinline__ void mma_from_zero(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kElement == Element::kF16) {
    ptx::mma_m16n8k16_f16_from_zero(d, a, b0, b1);
  } else {
    ptx::mma_m16n8k16_bf16_from_zero(d, a, b0, b1);
  }
}

// Two floats rounded to kElement, `low` in bits 0-15.
template <Element kElement>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  if constexpr (kElement == Element::kF16) {
    return ptx::cvt_rn_f16x2(low, high);
  } else {
    return ptx::cvt_rn_bf16x2(low, high);
  }
}

// The two elements of a pair, `low` in bits 0-15; exact.
template <Element kElement>
__device__ __forceinline__ void unpack(uint32_t pair, float& low, float& high) {
  if constexpr (kElement == Element::kF16) {
    low = ptx::cvt_f32_f16(static_cast<uint16_t>(pair));
    high = ptx::cvt_f32_f16(static_cast<uint16_t>(pair >> 16));
  } else {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
  }
}

// Maximum and sum over the four lanes that share an accumulator row.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, ptx::shfl_bfly(x, 1));
  return fmaxf(x, ptx::shfl_bfly(x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += ptx::shfl_bfly(x, 1);
  return x + ptx::shfl_bfly(x, 2);
}

}  // namespace fragment
