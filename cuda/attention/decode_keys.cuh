// The keys of a warp's steps: looked up one to a lane, two steps ahead, and copied to the warp's own ring.
#pragma once

#include <cstdint>

#include "attention/decode_config.cuh"
#include "attention/decode_params.cuh"
#include "attention/decode_share.cuh"
#include "attention/prefill_scores.cuh"
#include "common/ptx.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace decode {

// Copies of rows by one warp: with lines of c chunks, lane l takes chunk l%c of each line of rows l/c, l/c + 32/c, …
template <int kRowBytes>
struct WarpCopy {
  static constexpr int kLineBytes = swizzle::kLineBytes<kRowBytes>;
  static constexpr int kLines = kRowBytes / kLineBytes;
  static constexpr int kLineChunks = swizzle::kLineChunks<kRowBytes>;
  static constexpr int kStep = 32 / kLineChunks;  // rows between two of a lane's rows
  static constexpr uint32_t kAbsent = 0xffffffffu;  // in place of the offset of a row that does not exist

  static __device__ __forceinline__ uint32_t offset(uint32_t lane) {
    return swizzle::offset<kRowBytes>(lane / kLineChunks, lane % kLineChunks);
  }
  // How many of the lane's lines hold elements of rows that have only so many chunks.
  static __device__ __forceinline__ int lines(uint32_t lane, int chunks) {
    return (chunks - static_cast<int>(lane % kLineChunks) + kLineChunks - 1) / kLineChunks;
  }

  // Row r of kRows, whose offset in units of 16 bytes lane r has, to shared memory; zeros for rows that are absent and for
  // all but the first `lines` of the lane's lines. base: the lane's chunk of the row at offset 0.
  template <int kRows>
  static __device__ __forceinline__ void rows(uint32_t shared, uint64_t base, uint32_t row_offset, int lines) {
    const uint32_t lane = ptx::reread_tid() % 32;
    uint32_t offset[kRows / kStep];
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) offset[i] = __shfl_sync(0xffffffffu, row_offset, lane / kLineChunks + i * kStep);
    unroll<0, kRows / kStep>([&](auto i) {
      const uint64_t row = base + static_cast<uint64_t>(offset[i]) * swizzle::kChunkBytes;
      const bool exists = offset[i] != kAbsent;
      // In lines of 8 chunks, the swizzle turns the third bit of the chunk four rows on; of 4, nothing eight rows on.
      const uint32_t to = kLineChunks == 4 || i % 2 == 0 ? shared : shared ^ (4 * swizzle::kChunkBytes);
      unroll<0, kLines>([&](auto line) {
        const uint32_t valid = exists && line < lines ? swizzle::kChunkBytes : 0;  // nothing is read if this is 0
        ptx::cp_async_cg_16<i * kStep * kRowBytes + line * kLineBytes, line * kLineBytes>(to, row, valid);
      });
    });
  }
};

// What a lane knows of a step before its keys are copied.
struct Found {
  bool wanted;           // whether its key is one that some row of the item sees
  uint32_t page, slot;
  uint32_t bits;  // of the caller's mask: which of the step's keys lane's row may see
};

// What a lane knows of a step whose keys are being copied.
struct Step {
  uint32_t k_offset, v_offset;  // of its key's rows
  uint32_t seen;                // which of the step's keys its row sees
  bool edge;                    // whether some row does not see some key
};

// A warp's keys of an item. Row l%16 is "the lane's row" where words of bits are concerned.
template <class C>
struct Keys {
  using CopyK = WarpCopy<C::kKeyBytes>;
  using CopyV = WarpCopy<C::kValueBytes>;
  static constexpr int kChunkElements = swizzle::kChunkBytes / C::kCacheBytes;

  uint64_t gK, gV;            // this lane's chunk of the KV head's row at offset 0
  uint64_t pages;             // of the sequence's page ids
  uint64_t mask;              // of the sequence's mask
  uint32_t wK, wV;            // where this lane copies to
  int first, end;             // keys that some row sees and that exist, of this warp's steps
  int full_first, full_end;   // keys that all rows see
  int k_len;
  int token, position;        // of the lane's row
  bool exists;                // whether there is such a row
  bool bad_page;              // whether a page of a wanted key has a bad id

  __device__ __forceinline__ void point(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                        const Item& item) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = p.num_heads / p.num_kv_heads;
    const auto base = [&](const void* pool, int64_t stride_head) {
      const uint64_t address = ptx::global_address(pool) + lane % CopyK::kLineChunks * swizzle::kChunkBytes +
                               C::kCacheBytes * item.kv_head * stride_head;
      // Kept where there are registers to keep it in.
      return C::kCacheBytes == 1 && C::kHeadDim <= 128 ? ptx::opaque(address) : address;
    };
    gK = base(p.k, p.k_stride_head);
    gV = base(p.v, p.v_stride_head);
    pages = ptx::global_address(p.page_table) + 4 * seq.pages;
    wK = ptx::shared_address(smem.rings[warp].k) + CopyK::offset(lane);
    wV = ptx::shared_address(smem.rings[warp].v) + CopyV::offset(lane);
    const int rows = seq.q_len * group, from = item.first_row / group;
    const int to = (min(item.first_row + C::kTileQ, rows) - 1) / group;
    const KeySpan span = seen_by<C>(p, seq, from, to), of_first = seen_by<C>(p, seq, from, from),
                  of_last = seen_by<C>(p, seq, to, to);
    first = span.first;
    end = ptx::shfl_first(min(span.end, (item.chunk + item.chunks) * C::kChunk));
    full_first = of_last.first;
    full_end = of_first.end;
    k_len = seq.k_len;
    const int row = item.first_row + lane % C::kTileQ;
    exists = row < rows;
    token = row / group;
    position = token + seq.k_len - seq.q_len;
    bad_page = false;
    mask = 0;
    if (C::kOptions && p.mask_offsets != nullptr) {
      mask = ptx::global_address(p.mask) + seq.mask;
      full_end = 0;
    }
  }
  // The first key of the warp's first step.
  __device__ __forceinline__ int start(const Item& item) const {
    int key = item.chunk * C::kChunk + threadIdx.x / 32 * C::kTileK;
    if (key + C::kTileK <= first) key += (first - key - C::kTileK) / C::kChunk * C::kChunk + C::kChunk;
    return ptx::shfl_first(key);
  }

  // Begins to find out about the step whose first key this is.
  __device__ __forceinline__ Found look_up(const PrefillParams& p, int key0) const {
    const int lane = ptx::reread_tid() % 32, key = key0 + lane;
    Found found{bool((lane < C::kTileK) & (key >= first) & (key < end)), 0, 0, ~0u};
    uint32_t at = __umulhi(key, p.page_reciprocal);  // the quotient, or one less
    const uint32_t rest = key - at * p.page_size;
    const bool less = rest >= static_cast<uint32_t>(p.page_size);
    found.slot = less ? rest - p.page_size : rest;
    if (found.wanted) found.page = ptx::ld_global_u32(pages + 4ull * (less ? at + 1 : at));
    if constexpr (C::kOptions) {
      if (mask != 0 && exists && key0 < end) {
        found.bits = prefill::mask_bits(mask, static_cast<int64_t>(token) * k_len + key0, k_len - key0);
      }
    }
    return found;
  }

  // Checks what was found. Warp-collective.
  __device__ __forceinline__ Step settle(const PrefillParams& p, const Found& found, int key0) {
    constexpr uint32_t kAll = C::kTileK == 32 ? ~0u : (1u << C::kTileK) - 1;
    bool there = found.wanted && found.page < static_cast<uint32_t>(p.num_pages);
    bad_page |= found.wanted && !there;
    const uint32_t present = ptx::ballot(there);
    Step step;
    step.edge = present != kAll || key0 < full_first || key0 + C::kTileK > full_end;
    step.seen = present;
    if (step.edge) {
      const Reach r = prefill::reach<C>(p);
      step.seen &= prefill::lowest(position + r.right + 1 - key0) & ~prefill::lowest(position - r.left - key0);
      if (!exists) step.seen = 0;
      if (C::kOptions && mask != 0) {
        step.seen &= found.bits;
        there = ptx::redux_or(step.seen) >> ptx::reread_tid() % 32 & 1;  // what no row sees has no effect
      }
    }
    const auto offset = [&](int64_t stride_page, int64_t stride_token) {
      const uint32_t at = found.page * static_cast<uint32_t>(stride_page / kChunkElements) +
                          found.slot * static_cast<uint32_t>(stride_token / kChunkElements);
      return there ? at : CopyK::kAbsent;
    };
    step.k_offset = offset(p.k_stride_page, p.k_stride_token);
    step.v_offset = offset(p.v_stride_page, p.v_stride_token);
    return step;
  }

  __device__ __forceinline__ void copy_k(const PrefillParams& p, const Step& step) const {
    const int lines = C::kOptions ? CopyK::lines(ptx::reread_tid() % 32, p.head_dim / kChunkElements) : CopyK::kLines;
    CopyK::template rows<C::kTileK>(wK, gK, step.k_offset, lines);
  }
  __device__ __forceinline__ void copy_v(const PrefillParams& p, const Step& step) const {
    const int lines = C::kOptions ? CopyV::lines(ptx::reread_tid() % 32, p.v_dim / kChunkElements) : CopyV::kLines;
    CopyV::template rows<C::kTileK>(wV, gV, step.v_offset, lines);
  }
};

}  // namespace decode
