// How a cache stores elements: as they are, or in 8 bits with a scale, value = scale · stored.
//
// 8-bit floats are made and read in integer arithmetic: instructions for them exist from sm_89 on only. Eight
// neighbouring elements at a time: a chunk.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"

namespace kv {

constexpr int kChunk = 8;

// Numbers are shared with the host.
enum class Format : int32_t {
  kSame = 0,   // the type of the operands
  kE4m3 = 1,   // no infinities, largest 448
  kE5m2 = 2,   // infinities are never made, largest finite value 57344
  kInt8 = 3    // -128 to 127
};

// The nearest 8-bit float, ties to even; beyond the largest finite value that one, NaN stays NaN.
template <int kMantissa, int kBias, uint32_t kLargest>
__device__ __forceinline__ uint32_t to_float8(float x) {
  constexpr uint32_t kShift = 23 - kMantissa;
  constexpr uint32_t kSmallestNormal = (127 - kBias + 1) << 23;
  constexpr uint32_t kMagic = (127 - kBias + 1 + kShift) << 23;  // whose last place is the step of subnormals
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
  const uint32_t rounded = magnitude + ((1u << (kShift - 1)) - 1) + (magnitude >> kShift & 1);
  const uint32_t normal = min((rounded >> kShift) - ((127 - kBias) << kMantissa), kLargest);
  const uint32_t subnormal = __float_as_uint(fabsf(x) + __uint_as_float(kMagic)) - kMagic;
  const uint32_t finite = magnitude < kSmallestNormal ? subnormal : normal;
  return (magnitude > 0x7f800000 ? 0x7f : finite) | (bits >> 24 & 0x80);
}

// The nearest integer, ties to even, saturated; NaN gives 0.
__device__ __forceinline__ uint32_t to_int8(float x) { return min(max(__float2int_rn(x), -128), 127) & 0xff; }

// Exact.
__device__ __forceinline__ float from_e4m3(uint32_t byte) {
  const float x = 256.0f * ptx::cvt_f32_f16(static_cast<uint16_t>((byte & 0x80) << 8 | (byte & 0x7f) << 7));
  return (byte & 0x7f) == 0x7f ? __uint_as_float(0x7fffffff) : x;
}
__device__ __forceinline__ float from_e5m2(uint32_t byte) { return ptx::cvt_f32_f16(static_cast<uint16_t>(byte << 8)); }
__device__ __forceinline__ float from_int8(uint32_t byte) { return static_cast<float>(static_cast<int8_t>(byte)); }

// A chunk as it is stored: 16 bytes, or 8 of which the second half is unused.
struct Stored {
  uint32_t word[4];
};

// Eight bytes of what `convert` makes of each element times `reciprocal`.
template <class Convert>
__device__ __forceinline__ Stored to_bytes(const float (&x)[kChunk], float reciprocal, Convert&& convert) {
  Stored to = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) to.word[i / 4] |= convert(x[i] * reciprocal) << i % 4 * 8;
  return to;
}

__device__ __forceinline__ Stored to_8_bits(Format format, const float (&x)[kChunk], float reciprocal) {
  switch (format) {
    case Format::kE4m3: return to_bytes(x, reciprocal, to_float8<3, 7, 0x7e>);
    case Format::kE5m2: return to_bytes(x, reciprocal, to_float8<2, 15, 0x7b>);
    default: return to_bytes(x, reciprocal, to_int8);
  }
}

// What `convert` makes of each of eight bytes, times `scale`.
template <class Convert>
__device__ __forceinline__ void from_bytes(float (&x)[kChunk], const Stored& from, float scale, Convert&& convert) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = scale * convert(from.word[i / 4] >> i % 4 * 8 & 0xff);
}

__device__ __forceinline__ void from_8_bits(Format format, float (&x)[kChunk], const Stored& from, float scale) {
  switch (format) {
    case Format::kE4m3: return from_bytes(x, from, scale, from_e4m3);
    case Format::kE5m2: return from_bytes(x, from, scale, from_e5m2);
    default: return from_bytes(x, from, scale, from_int8);
  }
}

template <fragment::Element kElement>
__device__ __forceinline__ Stored to_16_bits(const float (&x)[kChunk]) {
  Stored to;
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) to.word[i] = fragment::pack<kElement>(x[2 * i], x[2 * i + 1]);
  return to;
}

template <fragment::Element kElement>
__device__ __forceinline__ void from_16_bits(float (&x)[kChunk], const Stored& from) {
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) fragment::unpack<kElement>(from.word[i], x[2 * i], x[2 * i + 1]);
}

}  // namespace kv
