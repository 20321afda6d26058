// kv_gather: keys and values of sequences out of a cache, one after the other, dequantised
//
//   output[t] = scale · cache[page of token t][its row]
//
// Shapes   k [tokens, heads, dim]  v [tokens, heads, v_dim]  cu_seqlens [batch + 1]; see gather_params.cuh
// Grid     (ceil(tokens / 32), splits)   Block 128 = 4 warps, each with 8 tokens, or a share of their rows
// Lanes    lane l < 8 finds token l's sequence by bisection, its page in the table, and checks it; then all lanes copy
//          row after row, 8 elements each
// Hazards  H1 offsets, page lists and page ids are read once and checked; what they say is used only if it is in range
// Numerics scale · stored in f32, rounded once; elements that are stored as they are keep their bits
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "kv/format.cuh"
#include "kv/gather_params.cuh"

namespace kv {

template <fragment::Element kElement_>
struct GatherConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRun = 8;  // tokens of a warp
  static constexpr int kTileQ = kWarps * kRun, kTileK = kChunk, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

// Where a token is: kAbsent has no page, and becomes zeros; kNobodys belongs to no sequence, and is left alone.
struct Location {
  static constexpr int kAbsent = -1, kNobodys = -2;
  int page, offset;
};

// Entries of cu_seqlens that are out of order or out of range, by all threads of the first row of the grid.
template <class C>
__device__ __forceinline__ void report_offsets(const GatherParams& p) {
#pragma unroll 1
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * C::kThreads + threadIdx.x; i < p.batch;
       i += static_cast<int64_t>(gridDim.x) * C::kThreads) {
    const int from = p.cu_seqlens[i], to = p.cu_seqlens[i + 1];
    if (from < 0 || to < from || to > p.tokens) report(p.status, Offence::kSeqLensK, i);
  }
}

// The last sequence that begins at or before the token, if the token comes before its end.
__device__ __forceinline__ Location locate(const GatherParams& p, int token, bool reports) {
  int low = 0, high = p.batch;
  int from = p.cu_seqlens[0], to = p.cu_seqlens[high];  // H1
  while (high - low > 1) {
    const int middle = low + (high - low) / 2, start = p.cu_seqlens[middle];  // H1
    const bool after = start <= token;
    (after ? low : high) = middle;
    (after ? from : to) = start;
  }
  if (from > token || to <= token) return {Location::kNobodys, 0};
  const uint32_t position = static_cast<uint32_t>(token) - static_cast<uint32_t>(from);  // below 2^32, whatever `from`
  int64_t first = low * p.page_table_stride, pages = p.page_table_len;
  bool bad = false;
  if (p.page_indptr != nullptr) {
    const int begin = p.page_indptr[low], end = p.page_indptr[low + 1];  // H1
    bad = begin < 0 || end < begin || end > p.page_table_len;
    first = bad ? 0 : begin;
    pages = bad ? 0 : end - begin;
  }
  const uint32_t index = position / p.page_size;
  if (index >= pages) {
    if (reports) report(p.status, Offence::kPageRange, low);
    return {Location::kAbsent, 0};
  }
  const uint32_t page = p.page_table[first + index];  // H1
  if (page >= static_cast<uint32_t>(p.num_pages)) {
    if (reports) report(p.status, Offence::kPageId, low);
    return {Location::kAbsent, 0};
  }
  return {static_cast<int>(page), static_cast<int>(position - index * p.page_size)};
}

// A chunk from element `at` on, as it is stored.
__device__ __forceinline__ Stored load(const GatherPart& a, int64_t at, bool is_16_bit) {
  Stored chunk = {};
  if (!a.transposed) {
    if (is_16_bit) {
      const uint4 all = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(a.input) + at);
      chunk = {{all.x, all.y, all.z, all.w}};
    } else {
      const uint2 all = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(a.input) + at);
      chunk.word[0] = all.x, chunk.word[1] = all.y;
    }
  } else if (is_16_bit) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t one = static_cast<const uint16_t*>(a.input)[at + i * a.in_stride_element];
      chunk.word[i / 2] |= one << i % 2 * 16;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t one = static_cast<const uint8_t*>(a.input)[at + i * a.in_stride_element];
      chunk.word[i / 4] |= one << i % 4 * 8;
    }
  }
  return chunk;
}

// Passes `first` to `end` over the heads of one part of a token.
template <class C>
__device__ __forceinline__ void gather_rows(const GatherPart& a, const Location& where, int token, int first, int end) {
  const int lane = threadIdx.x % 32, chunk = lane & ((1 << a.lanes_shift) - 1), row = lane >> a.lanes_shift;
  const int rows = 32 >> a.lanes_shift;
  const Format format = static_cast<Format>(a.format);
  const bool is_16_bit = format == Format::kSame;
  const int64_t in = where.page * a.in_stride_page + where.offset * a.in_stride_slot +
                     (chunk >> a.group_shift) * a.in_stride_group +
                     (chunk & ((1 << a.group_shift) - 1)) * kChunk * a.in_stride_element;
  uint16_t* out = static_cast<uint16_t*>(a.output) + token * a.out_stride_token + chunk * kChunk;
#pragma unroll 1
  for (int pass = first; pass < end; ++pass) {
    const int head = pass * rows + row;
    if (head >= a.heads || chunk * kChunk >= a.dim) continue;
    Stored stored = {};
    if (where.page >= 0) {
      stored = load(a, in + head * a.in_stride_head, is_16_bit);
      if (!is_16_bit) {
        const float scale = a.scales != nullptr ? a.scales[head * a.scale_stride] : 1.0f;
        float x[kChunk];
        from_8_bits(format, x, stored, scale);
        stored = to_16_bits<C::kElement>(x);
      }
    }
    *reinterpret_cast<uint4*>(out + head * a.out_stride_head) =
        make_uint4(stored.word[0], stored.word[1], stored.word[2], stored.word[3]);
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void gather(const GatherParams& p) {
  if (blockIdx.y == 0) report_offsets<C>(p);
  const int lane = threadIdx.x % 32, warp = ptx::shfl_first(threadIdx.x / 32);
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * C::kWarps + warp) * C::kRun;
  if (begin >= p.tokens || p.batch == 0) return;
  const int tokens = static_cast<int>(min(p.tokens - begin, static_cast<int64_t>(C::kRun)));
  Location own{Location::kNobodys, 0};
  if (lane < tokens) own = locate(p, static_cast<int>(begin) + lane, blockIdx.y == 0);
  __syncwarp();

  const uint32_t splits = gridDim.y;
  const int first = blockIdx.y * p.passes / splits, end = (blockIdx.y + 1) * p.passes / splits;
#pragma unroll 1
  for (int i = 0; i < tokens; ++i) {
    const Location where{__shfl_sync(0xffffffffu, own.page, i), __shfl_sync(0xffffffffu, own.offset, i)};
    if (where.page == Location::kNobodys) continue;
    int before = 0;  // passes of the parts so far
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      const GatherPart& a = p.parts.of[part];
      const int from = max(first - before, 0), to = min(end - before, a.passes);
      before += a.passes;
      gather_rows<C>(a, where, static_cast<int>(begin) + i, from, to);
    }
  }
}

}  // namespace kv
