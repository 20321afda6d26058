// kv_append: new keys and values into the slots of a cache, normalised, rotated and quantised on the way; queries likewise
//
//   y = x · weight / √(mean(x²) + eps)     queries and keys, if wanted, with the head's own mean
//   z = y·cos ± y'·sin                     y' the other element of the pair; the first rotary_dim elements of a head
//   cache[slot] = round(z / scale)
//
// Shapes   queries, keys [tokens, heads, dim]  values [tokens, heads, v_dim]  slots, positions [tokens]; see append_params.cuh
// Grid     (ceil(tokens / 4), splits)   Block 128 = 4 warps, each with one split of a token's rows
// Lanes    8 elements, 16 bytes, of a row; a warp passes over 32 / lanes-of-a-row heads at a time, queries first, then
//          keys, then values: everything but the head is the same in all lanes, and the table is read once for a token
// Smem     1 KiB for each warp, for rotary dims whose halves are not whole chunks
// Hazards  H1 slot and position are read once, by one load, and checked; what they say is used only if it is in range
//          H2 two tokens may have one slot: stores are relaxed, each element is one of the two
//          In place no lane reads what another one writes: partners change hands in registers or in shared memory.
// Numerics f32 between reading and the one rounding at the end; rows that nothing is done to keep their bits
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "kv/append_params.cuh"
#include "kv/format.cuh"
#include "kv/index.cuh"
#include "kv/offences.cuh"
#include "kv/relaxed.cuh"

namespace kv {

template <fragment::Element kElement_>
struct AppendConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kTileQ = kWarps, kTileK = kChunk, kStages = 1;  // tokens, elements of a lane
  static constexpr uint32_t kSmemBytes = kThreads * kChunk * sizeof(float);
};

// What is known of a token: -1 for a slot or a position that it does not have.
struct Token {
  int index, page, offset, position;
  bool bad;  // its position is: nothing is done for it
};

// Reads and checks slot and position. The same in all lanes.
__device__ __forceinline__ Token checked_token(const AppendParams& p, int index, bool reports) {
  const int64_t slot = p.slots != nullptr ? index_at(p.slots, p.slots_are_64, index) : -1;  // H1
  const bool good = slot >= 0 && slot < p.num_slots, is_padding = (p.padding || p.slots == nullptr) && slot == -1;
  if (reports && !good && !is_padding) report(p.status, kSlot, index);
  Token token{index, -1, 0, 0, false};
  const int checked = ptx::shfl_first(good ? static_cast<int>(slot) : -1);
  if (checked >= 0) {
    token.page = checked / p.page_size;
    token.offset = checked - token.page * p.page_size;
  }
  if (p.positions != nullptr) {
    const int64_t position = index_at(p.positions, p.positions_are_64, index);  // H1
    const bool known = position >= 0 && position < p.max_position;
    if (reports && !known) report(p.status, kPosition, index);
    token.position = ptx::shfl_first(known ? static_cast<int>(position) : -1);
    token.bad = token.position < 0;
  }
  return token;
}

// Which elements of its row a lane has.
struct Place {
  int lane, chunk, row, first;  // lane of the warp, chunk of the row, row of the pass, first element
  bool exists;

  __device__ __forceinline__ explicit Place(const AppendPart& a) {
    lane = threadIdx.x % 32;
    chunk = lane & ((1 << a.lanes_shift) - 1);
    row = lane >> a.lanes_shift;
    first = chunk * kChunk;
    exists = first < a.dim;
  }
};

// Elements `first`, `first` + 1, … of f32 or 16-bit numbers; kCount at once where they are aligned to as many.
template <fragment::Element kElement, int kCount>
__device__ __forceinline__ void load_aligned(float (&to)[kChunk], const void* from, bool is_f32, int64_t first) {
  if (is_f32) {
    const float4* at = reinterpret_cast<const float4*>(static_cast<const float*>(from) + first);
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      const float4 four = at[i];
      to[4 * i] = four.x, to[4 * i + 1] = four.y, to[4 * i + 2] = four.z, to[4 * i + 3] = four.w;
    }
  } else {
    const uint2* at = reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(from) + first);
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      const uint2 four = at[i];
      fragment::unpack<kElement>(four.x, to[4 * i], to[4 * i + 1]);
      fragment::unpack<kElement>(four.y, to[4 * i + 2], to[4 * i + 3]);
    }
  }
}

template <fragment::Element kElement>
__device__ __forceinline__ float load_one(const void* from, bool is_f32, int64_t at) {
  if (is_f32) return static_cast<const float*>(from)[at];
  float low, high;
  fragment::unpack<kElement>(static_cast<const uint16_t*>(from)[at], low, high);
  return low;
}

// Turns pairs of a row's elements by the position's angles: z = y·cosine + partner·sine, the sine negated in the first
// element of a pair.
template <fragment::Element kElement>
struct Rotation {
  float cosine[kChunk], sine[kChunk];

  // The angles of this lane's elements; those of elements beyond rotary_dim do not matter.
  __device__ __forceinline__ void load(const AppendParams& p, const Place& place, int position) {
    const bool interleaved = p.pairing == static_cast<int>(Pairing::kInterleaved);
    const int64_t cosines = position * p.cosines_stride, sines = position * p.sines_stride;
    const int half = p.rotary_dim / 2;
    if (place.first >= p.rotary_dim) return;
    if (!p.table_is_aligned || p.pairing == static_cast<int>(Pairing::kUnevenHalves)) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const int element = place.first + i;
        const int angle = interleaved ? element / 2 : element < half ? element : element - half;
        if (element < p.rotary_dim) {
          cosine[i] = load_one<kElement>(p.cosines, p.table_is_f32, cosines + angle);
          sine[i] = load_one<kElement>(p.sines, p.table_is_f32, sines + angle);
        }
      }
    } else if (interleaved) {
      load_aligned<kElement, 4>(cosine, p.cosines, p.table_is_f32, cosines + place.first / 2);
      load_aligned<kElement, 4>(sine, p.sines, p.table_is_f32, sines + place.first / 2);
#pragma unroll
      for (int i = kChunk - 1; i > 0; --i) cosine[i] = cosine[i / 2], sine[i] = sine[i / 2];
    } else {
      const int angle = place.first < half ? place.first : place.first - half;
      load_aligned<kElement, 8>(cosine, p.cosines, p.table_is_f32, cosines + angle);
      load_aligned<kElement, 8>(sine, p.sines, p.table_is_f32, sines + angle);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (interleaved ? i % 2 == 0 : place.first + i < half) sine[i] = -sine[i];
    }
  }

  // Warp-collective.
  __device__ __forceinline__ void turn(const AppendParams& p, const Place& place, float (&y)[kChunk],
                                       float* scratch) const {
    float partner[kChunk];
    const int half = p.rotary_dim / 2;
    switch (static_cast<Pairing>(p.pairing)) {
      case Pairing::kInterleaved:
#pragma unroll
        for (int i = 0; i < kChunk; ++i) partner[i] = y[i ^ 1];
        break;
      case Pairing::kHalves: {
        const int from = place.lane + (place.first < half ? half : -half) / kChunk;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) partner[i] = __shfl_sync(0xffffffffu, y[i], from & 31);
        break;
      }
      default: {
        float* row = scratch + (place.lane - place.chunk) * kChunk;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kChunk; ++i) row[place.first + i] = y[i];
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const int element = place.first + i;
          partner[i] = element < p.rotary_dim ? row[element < half ? element + half : element - half] : 0.0f;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float z = __fmaf_rn(y[i], cosine[i], __fmul_rn(partner[i], sine[i]));
      if (place.first + i < p.rotary_dim) y[i] = z;
    }
  }
};

// y = x · weight / √(mean(x²) + eps), over the lanes of a row. Warp-collective.
__device__ __forceinline__ void normalise(const AppendParams& p, const AppendPart& a, float (&x)[kChunk],
                                          const float (&weight)[kChunk]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = fmaf(x[i], x[i], sum);
#pragma unroll 1
  for (int mask = 1; mask < 1 << a.lanes_shift; mask *= 2) sum += ptx::shfl_bfly(sum, mask);
  const float factor = rsqrtf(fmaf(sum, p.mean_factor, p.eps));
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = x[i] * factor * weight[i];
}

// Writes a chunk of 16-bit or 8-bit elements, at once where they are neighbours.
__device__ __forceinline__ void store(const AppendPart& a, int64_t element, bool is_16_bit, const Stored& chunk) {
  const uint64_t at = ptx::global_address(a.output) + (is_16_bit ? 2 * element : element);
  const int64_t step = a.out_stride_element;
  if (!a.transposed) {
    if (is_16_bit) {
      ptx::st_relaxed_v4(at, chunk.word[0], chunk.word[1], chunk.word[2], chunk.word[3]);
    } else {
      ptx::st_relaxed_v2(at, chunk.word[0], chunk.word[1]);
    }
  } else if (is_16_bit) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      ptx::st_relaxed_b16(at + 2 * i * step, static_cast<uint16_t>(chunk.word[i / 2] >> i % 2 * 16));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) ptx::st_relaxed_b8(at + i * step, chunk.word[i / 4] >> i % 4 * 8 & 0xff);
  }
}

// Passes `from` to `end` over the heads of one part of a token. Warp-collective.
template <class C>
__device__ __forceinline__ void rows(const AppendParams& p, const AppendPart& a, const Token& token, int from, int end,
                                     const Rotation<C::kElement>& rotation, float* scratch) {
  const Place place(a);
  const int rows = 32 >> a.lanes_shift;
  const Format format = static_cast<Format>(a.format);
  const bool changes = a.norm_weight != nullptr || a.rotates, is_16_bit = format == Format::kSame;
  float weight[kChunk] = {};
  if (a.norm_weight != nullptr && place.exists) {
    load_aligned<C::kElement, 8>(weight, a.norm_weight, p.weight_is_f32, place.first);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) weight[i] += p.weight_offset;
  }
  const uint16_t* in = static_cast<const uint16_t*>(a.input) + token.index * a.in_stride_token + place.first;
  const int64_t out = (a.in_pages ? token.page * a.out_stride_page + token.offset * a.out_stride_slot
                                  : token.index * a.out_stride_page) +
                      (place.chunk >> a.group_shift) * a.out_stride_group +
                      (place.chunk & ((1 << a.group_shift) - 1)) * kChunk * a.out_stride_element;
  const auto load = [&](int pass) {
    const int head = pass * rows + place.row;
    Stored chunk = {};
    if (pass < end && head < a.heads && place.exists) {
      const uint4 all = *reinterpret_cast<const uint4*>(in + head * a.in_stride_head);
      chunk = {{all.x, all.y, all.z, all.w}};
    }
    return chunk;
  };
  Stored next = load(from);
#pragma unroll 1
  for (int pass = from; pass < end; ++pass) {
    Stored chunk = next;
    next = load(pass + 1);
    const int head = pass * rows + place.row;
    const bool exists = head < a.heads && place.exists;
    if (changes || !is_16_bit) {
      float x[kChunk];
      from_16_bits<C::kElement>(x, chunk);
      if (a.norm_weight != nullptr) normalise(p, a, x, weight);
      if (a.rotates) rotation.turn(p, place, x, scratch);
      if (is_16_bit) {
        chunk = to_16_bits<C::kElement>(x);
      } else {
        const float scale = a.scales != nullptr && exists ? a.scales[head * a.scale_stride] : 1.0f;
        chunk = to_8_bits(format, x, __frcp_rn(scale));
      }
    }
    if (exists) store(a, out + head * a.out_stride_head, is_16_bit, chunk);  // H2
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void append(const AppendParams& p) {
  extern __shared__ __align__(16) unsigned char smem[];
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  float* scratch = reinterpret_cast<float*>(smem) + warp * 32 * kChunk;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * C::kWarps + warp;
  if (index >= p.tokens) return;
  const Token token = checked_token(p, static_cast<int>(index), blockIdx.y == 0 && threadIdx.x % 32 == 0);
  if (token.bad) return;

  const uint32_t splits = gridDim.y;
  const int first = blockIdx.y * p.passes / splits, end = (blockIdx.y + 1) * p.passes / splits;
  Rotation<C::kElement> rotation;
  int loaded = -1;  // for how many lanes of a row
  int before = 0;   // passes of the parts so far
#pragma unroll 1
  for (int part = 0; part < 3; ++part) {
    const AppendPart& a = p.parts.of[part];
    const int from = max(first - before, 0), to = min(end - before, a.passes);
    before += a.passes;
    if (from >= to || (a.in_pages && token.page < 0)) continue;
    if (a.rotates && loaded != a.lanes_shift) {
      loaded = a.lanes_shift;
      rotation.load(p, Place(a), token.position);
    }
    rows<C>(p, a, token, from, to, rotation, scratch);
  }
}

}  // namespace kv
