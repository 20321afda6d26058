// Eight neighbouring elements of a row that begins at a multiple of 16 bytes: what a thread takes at a time.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"

namespace elementwise {

constexpr int kChunk = 8;

using Chunk = float[kChunk];

// A chunk of 16-bit numbers as it is stored.
struct Packed {
  uint32_t pair[kChunk / 2];
};

// The 16-bit numbers from `at` on, of which `exist` do: zeros in place of the others. The end of an odd row is rare: its
// loops stay loops, as unrolled they would be most of a kernel's text.
__device__ __forceinline__ Packed load(const uint16_t* at, int exist) {
  if (exist >= kChunk) {
    const uint4 all = *reinterpret_cast<const uint4*>(at);
    return {{all.x, all.y, all.z, all.w}};
  }
  uint64_t half[2] = {};
#pragma unroll 1
  for (int i = 0; i < exist; ++i) {
    const uint64_t number = static_cast<uint64_t>(at[i]) << i % 4 * 16;
    half[0] |= i < 4 ? number : 0, half[1] |= i < 4 ? 0 : number;
  }
  return {{static_cast<uint32_t>(half[0]), static_cast<uint32_t>(half[0] >> 32), static_cast<uint32_t>(half[1]),
           static_cast<uint32_t>(half[1] >> 32)}};
}

__device__ __forceinline__ void store(uint16_t* at, const Packed& from, int exist) {
  if (exist >= kChunk) {
    *reinterpret_cast<uint4*>(at) = make_uint4(from.pair[0], from.pair[1], from.pair[2], from.pair[3]);
    return;
  }
  const uint64_t low = from.pair[0] | static_cast<uint64_t>(from.pair[1]) << 32;
  const uint64_t high = from.pair[2] | static_cast<uint64_t>(from.pair[3]) << 32;
#pragma unroll 1
  for (int i = 0; i < exist; ++i) at[i] = static_cast<uint16_t>((i < 4 ? low : high) >> i % 4 * 16);
}

// The same for f32.
__device__ __forceinline__ void load_f32(Chunk& to, const float* at, int exist) {
  if (exist >= kChunk) {
    const float4 low = reinterpret_cast<const float4*>(at)[0], high = reinterpret_cast<const float4*>(at)[1];
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) to[i] = i < exist ? at[i] : 0.0f;
  }
}

// Exact.
template <fragment::Element kElement>
__device__ __forceinline__ void unpack(Chunk& to, const Packed& from) {
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) fragment::unpack<kElement>(from.pair[i], to[2 * i], to[2 * i + 1]);
}

// Rounded to nearest even.
template <fragment::Element kElement>
__device__ __forceinline__ Packed pack(const Chunk& from) {
  Packed to;
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) to.pair[i] = fragment::pack<kElement>(from[2 * i], from[2 * i + 1]);
  return to;
}

}  // namespace elementwise
