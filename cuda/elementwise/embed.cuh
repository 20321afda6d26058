// embed: y[t] = factor · table[ids[t]], of a table in 16 or 32 bits, or in 8 with a scale for each group of a row
//
// Shapes   table [ids, dim]  scales [ids, ceil(dim / group)]  ids [tokens] → y [tokens, dim]; see embed_params.cuh
// Grid     (tokens)   Block 256: a token's row, a chunk of 8 elements for a thread at a time
// Hazards  H1 an id is read once by each warp, and checked; beyond the table there are zeros
// Numerics code · scale in f32, times the factor, one rounding: rows of y's own type keep their bits where the factor is 1
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "elementwise/chunk.cuh"
#include "elementwise/embed_params.cuh"
#include "elementwise/offences.cuh"
#include "kv/index.cuh"

namespace elementwise {

template <fragment::Element kElement_>
struct EmbedConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kThreads = 256, kTileQ = 1, kTileK = kThreads * kChunk, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

// The row of a token's id, the same in all lanes; -1 if there is none.
__device__ __forceinline__ int checked_row(const EmbedParams& p, int token) {
  int row = -1;
  if (threadIdx.x % 32 == 0) {
    const int64_t id = kv::index_at(p.ids, p.ids_are_64, token);  // H1
    if (id >= 0 && id < p.rows) row = static_cast<int>(id);
    if (row < 0 && threadIdx.x == 0) report(static_cast<Status*>(p.status), kTokenId, token);
  }
  return ptx::shfl_first(row);
}

__device__ __forceinline__ float load_one(const void* from, Stored type, int64_t at) {
  if (type == Stored::kF32) return static_cast<const float*>(from)[at];
  const uint16_t bits = static_cast<const uint16_t*>(from)[at];
  return type == Stored::kF16 ? ptx::cvt_f32_f16(bits) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Elements of the table from `at` on, of which `exist` do.
__device__ __forceinline__ void load_chunk(Chunk& x, const EmbedParams& p, int64_t at, int exist) {
  switch (static_cast<Stored>(p.table_type)) {
    case Stored::kF32: return load_f32(x, static_cast<const float*>(p.table) + at, exist);
    case Stored::kI8: {
      const uint8_t* codes = static_cast<const uint8_t*>(p.table) + at;
      uint32_t word[2] = {};
      if (exist >= kChunk) {
        const uint2 all = *reinterpret_cast<const uint2*>(codes);
        word[0] = all.x, word[1] = all.y;
      } else {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          if (i < exist) word[i / 4] |= static_cast<uint32_t>(codes[i]) << i % 4 * 8;
        }
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] = static_cast<float>(static_cast<int8_t>(word[i / 4] >> i % 4 * 8));
      return;
    }
    default: {
      const Packed packed = load(static_cast<const uint16_t*>(p.table) + at, exist);
      if (p.table_type == static_cast<int32_t>(Stored::kF16)) {
        unpack<fragment::Element::kF16>(x, packed);
      } else {
        unpack<fragment::Element::kBf16>(x, packed);
      }
    }
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void embed(const EmbedParams& p) {
  const int token = blockIdx.x, row = checked_row(p, token);
  uint16_t* y = static_cast<uint16_t*>(p.y) + token * p.y_stride;
#pragma unroll 1
  for (int first = threadIdx.x * kChunk; first < p.dim; first += C::kThreads * kChunk) {
    const int exist = p.dim - first;
    Chunk x = {};
    if (row >= 0) {
      load_chunk(x, p, row * p.table_stride + first, exist);
      float scale = 1.0f;
      if (p.scales != nullptr) {
        const int64_t at = row * p.scales_stride + first / p.group;
        scale = load_one(p.scales, static_cast<Stored>(p.scale_type), at);
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] = x[i] * scale * p.factor;
    }
    store(y + first, pack<C::kElement>(x), exist);
  }
}

}  // namespace elementwise
