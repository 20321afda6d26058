// The tokens of a CTA's steps. Eight threads share one: the first looks it up, two steps ahead, each copies an eighth of its rows.
#pragma once

#include <cstdint>

#include "attention/decode_share.cuh"
#include "attention/mla_config.cuh"
#include "attention/mla_params.cuh"
#include "common/ptx.cuh"
#include "common/ptx_use.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace mla {

using decode::Item;
using decode::Sequence;

// Copies a thread's chunks of row `row` of a tile, or makes them zeros: chunk `tid % 8` of each line. to: where the tile
// is; latent, rope: the row's.
template <class C>
__device__ __forceinline__ void copy_row(uint32_t to_latent, uint32_t to_rope, int row, uint64_t latent, uint64_t rope,
                                         bool exists) {
  constexpr int kLines = C::kLatentBytes / 128;
  const uint32_t chunk = threadIdx.x % 8;
  const uint32_t to = to_latent + swizzle::offset<C::kLatentBytes>(row, chunk);
  const uint64_t from = latent + chunk * swizzle::kChunkBytes;
  const uint32_t valid = exists ? swizzle::kChunkBytes : 0;  // nothing is read if this is 0
  unroll<0, kLines>([&](auto line) { ptx::cp_async_cg_16<line * 128, line * 128>(to, from, valid); });
  ptx::cp_async_cg_16<0, 0>(to_rope + swizzle::offset<C::kRopeBytes>(row, chunk), rope + chunk * swizzle::kChunkBytes,
                            valid);
}

// What a thread knows of its token of a step before it is copied.
struct Found {
  bool wanted;          // whether some row of the item sees it
  uint32_t page, slot;  // of the eight lanes of a token, the first knows the page
};

// A CTA's tokens of an item. Thread t has row t/8 of each step.
template <class C>
struct Keys {
  static_assert(C::kThreads == 8 * C::kTileK, "a thread for each chunk of a line of a step's rows");

  uint64_t pages;  // of the sequence's page ids
  int end;         // tokens that some row sees and that exist
  int full_end;    // that all rows see
  bool there;      // whether the thread's token of the step copied last exists
  bool bad_page;   // whether a page of a wanted token has a bad id

  __device__ __forceinline__ void point(const PrefillParams& p, const Sequence& seq, const Item& item) {
    const int rows = seq.q_len * p.num_heads, from = item.first_row / p.num_heads;
    const int to = (min(item.first_row + C::kTileQ, rows) - 1) / p.num_heads;
    pages = ptx::global_address(p.page_table) + 4 * seq.pages;
    ptx::use(seq.first_chunk);
    ptx::use(seq.chunks);
    end = ptx::shfl_first(
        min(decode::seen_by<C>(p, seq, from, to).end, (item.chunk + item.chunks) * C::kChunk));
    full_end = ptx::shfl_first(decode::seen_by<C>(p, seq, from, from).end);
    bad_page = false;
  }

  // Begins to find out about the step whose first token this is.
  __device__ __forceinline__ Found look_up(const PrefillParams& p, int key0) const {
    const int tid = threadIdx.x, key = key0 + tid / 8;
    Found found{key < end, 0, 0};
    uint32_t at = __umulhi(key, p.page_reciprocal);  // the quotient, or one less
    const uint32_t rest = key - at * p.page_size;
    const bool less = rest >= static_cast<uint32_t>(p.page_size);
    found.slot = less ? rest - p.page_size : rest;
    if (found.wanted && tid % 8 == 0) found.page = ptx::ld_global_u32(pages + 4ull * (less ? at + 1 : at));
    return found;
  }

  // Checks what was found and starts the copies to a stage.
  __device__ __forceinline__ void copy(const PrefillParams& p, typename C::Smem& smem, const Found& found, int stage) {
    const int tid = threadIdx.x, row = tid / 8;
    const uint32_t found_page = __shfl_sync(0xffffffffu, found.page, tid & 24);
    there = found.wanted && found_page < static_cast<uint32_t>(p.num_pages);
    bad_page |= found.wanted && !there;
    const uint32_t page = there ? found_page : 0, slot = there ? found.slot : 0;
    const auto row_of = [&](const void* pool, int64_t stride_page, int64_t stride_token) {
      const uint32_t at = page * static_cast<uint32_t>(stride_page / 8) + slot * static_cast<uint32_t>(stride_token / 8);
      return ptx::global_address(pool) + static_cast<uint64_t>(at) * swizzle::kChunkBytes;
    };
    copy_row<C>(ptx::shared_address(smem.work.keys[stage].latent), ptx::shared_address(smem.work.keys[stage].rope), row,
                row_of(p.k, p.k_stride_page, p.k_stride_token), row_of(p.v, p.v_stride_page, p.v_stride_token), there);
    if (tid % 8 == 0) smem.there[stage][row] = there;
  }
};

// Starts the copies of the item's rows of Q.
template <class C>
__device__ __forceinline__ void copy_queries(const MlaParams& params, typename C::Smem& smem, const Sequence& seq,
                                             const Item& item) {
  const PrefillParams& p = params.decode.attention;
#pragma unroll 1
  for (int row = threadIdx.x / 8; row < C::kTileQ; row += C::kThreads / 8) {
    const int at = item.first_row + row, head = at % p.num_heads, token = at / p.num_heads;
    const bool exists = token < seq.q_len;  // H4
    const int64_t q_row = static_cast<int64_t>(seq.q_start) + (exists ? token : 0);
    const auto row_of = [&](const void* q, int64_t stride_token, int64_t stride_head) {
      return ptx::global_address(q) + 2 * (q_row * stride_token + head * stride_head);
    };
    copy_row<C>(ptx::shared_address(smem.work.queries.latent), ptx::shared_address(smem.work.queries.rope), row,
                row_of(p.q, p.q_stride_token, p.q_stride_head),
                row_of(params.q_rope, params.q_rope_stride_token, params.q_rope_stride_head), exists);
  }
}

}  // namespace mla
