// How likely tokens are, as integers: sums of them are exact in any order, so that whoever adds them up, in whatever order,
// draws the same token. Every operation rounds as IEEE 754 says: the host computes the same bits.
#pragma once

#include <cstdint>

namespace elementwise {

constexpr uint32_t kKeyBase = 88u << 23;  // bits of 2^-39
constexpr int kKeyBits = 29;              // keys are below 2^29

// 2^y for y from -38 to 0, its bits less kKeyBase, which are in the order of the numbers; 0 for less, and for NaN.
__device__ __forceinline__ uint32_t key_of_exponent(float y) {
  if (!(y >= -38.0f)) return 0;
  const float whole = rintf(y), rest = __fadd_rn(y, -whole);
  // 2^rest within 2e-7: the polynomial of small error on [-0.5, 0.5] that is 1 at 0.
  float power = 1.54035304e-4f;
  power = __fmaf_rn(power, rest, 1.33335581e-3f);
  power = __fmaf_rn(power, rest, 9.61812911e-3f);
  power = __fmaf_rn(power, rest, 5.55041087e-2f);
  power = __fmaf_rn(power, rest, 2.40226507e-1f);
  power = __fmaf_rn(power, rest, 6.93147182e-1f);
  power = __fmaf_rn(power, rest, 1.0f);
  return __float_as_uint(power) + (static_cast<int32_t>(whole) << 23) - kKeyBase;
}

// e^((x - most) / temperature) as a key: `factor` is log2(e) / temperature.
__device__ __forceinline__ uint32_t key_of(float x, float most, float factor) {
  return key_of_exponent(x == most ? 0.0f : __fmul_rn(__fadd_rn(x, -most), factor));
}

// The number in units of 2^-39, rounded down.
__device__ __forceinline__ uint64_t weight_of(uint32_t key) {
  if (key == 0) return 0;
  const uint32_t bits = key + kKeyBase;
  return (static_cast<uint64_t>((bits & 0x7fffff) | 0x800000) << 16) >> (127 - (bits >> 23));
}

// Philox4x32-10: 64 random bits of a key and a counter.                             [Salmon et al. 2011]
__device__ __forceinline__ uint64_t philox(uint64_t seed, uint64_t counter) {
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
#pragma unroll 1
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c[0], b = static_cast<uint64_t>(0xCD9E8D57u) * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  return c[0] | static_cast<uint64_t>(c[1]) << 32;
}

}  // namespace elementwise
