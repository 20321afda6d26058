// Where the keys and values of a tile come from: a running pointer for ragged ones, looked-up offsets for all others.
//
// Looked-up tiles cost one look-up per key, two tiles ahead: thread t finds the page of the tile's key t, checks it, and
// leaves the offsets of that key's rows of K and of V in shared memory, for whoever copies them. Any page size will do.
#pragma once

#include <cstdint>

#include "attention/prefill_config.cuh"
#include "attention/prefill_params.cuh"
#include "attention/prefill_sequence.cuh"
#include "common/ptx.cuh"

namespace prefill {

// This thread's chunk of the head's first row of a tensor: `rows` lie before the sequence's first.
__device__ __forceinline__ uint64_t first_row(const void* tensor, uint32_t chunk, int64_t rows, int64_t stride_token,
                                              uint32_t head, int64_t stride_head) {
  return ptx::global_address(tensor) + chunk * swizzle::kChunkBytes + 2 * (rows * stride_token + head * stride_head);
}

// Keys and values in successive rows.
template <class C>
struct RaggedKeys {
  uint64_t gK, gV;         // this thread's next chunk of K, of V to copy
  int64_t k_back, v_back;  // bytes from one of its rows to the one before

  uint64_t gK0, gV0;       // of the sequence's first row

  // Points to a tile.
  __device__ __forceinline__ void point(const PrefillParams& p, const Sequence& seq, uint32_t kv_head, int tile) {
    const uint32_t tid = threadIdx.x, chunk = C::CopyK::chunk(tid);
    gK0 = first_row(p.k, chunk, seq.k_start, p.k_stride_token, kv_head, p.k_stride_head);
    gV0 = first_row(p.v, chunk, seq.k_start, p.v_stride_token, kv_head, p.v_stride_head);
    const int64_t last_key =
        static_cast<int64_t>(tile) * C::kTileK + (C::kTileK - C::CopyK::kStep + static_cast<int>(C::CopyK::row(tid)));
    gK = gK0 + 2 * last_key * p.k_stride_token;
    gV = gV0 + 2 * last_key * p.v_stride_token;
    k_back = -2 * C::CopyK::kStep * p.k_stride_token;
    v_back = -2 * C::CopyV::kStep * p.v_stride_token;
  }

  // Copies the first tile's K and, if `edges`, its V: an edge may lack rows, which is dealt with here, so that no loop has
  // to. rows_left: keys from the thread's first row on.
  __device__ __forceinline__ void copy_first(uint32_t wK, uint32_t wV, int rows_left, bool edges) {
    C::CopyK::template bounded<C::kTileK>(wK, gK, k_back, rows_left, gK0);             // H4
    if (edges) C::CopyV::template bounded<C::kTileK>(wV, gV, v_back, rows_left, gV0);  // H4
  }

  __device__ __forceinline__ void copy_k(uint32_t wK) { C::CopyK::template full<C::kTileK>(wK, gK, k_back); }
  __device__ __forceinline__ void copy_v(uint32_t wV) { C::CopyV::template full<C::kTileK>(wV, gV, v_back); }
};

// Keys and values in rows that are looked up.
template <class C>
struct GatheredKeys {
  uint64_t gK, gV;  // this thread's chunk of the head's row at offset 0
  bool absent;      // whether its key of the tile published last does not exist

  // What a thread finds out about its key of a tile: nothing, unless it is wanted.
  struct Found {
    bool wanted;
    uint32_t page, slot;
  };

  // Points to a tile.
  __device__ __forceinline__ void point(const PrefillParams& p, const Sequence& seq, uint32_t kv_head, int) {
    const uint32_t tid = threadIdx.x, chunk = C::CopyK::chunk(tid);
    gK = first_row(p.k, chunk, seq.k_start, p.k_stride_token, kv_head, p.k_stride_head);
    gV = first_row(p.v, chunk, seq.k_start, p.v_stride_token, kv_head, p.v_stride_head);
  }

  // Looks up the first two tiles and copies K of the first.
  __device__ __forceinline__ void copy_first(const PrefillParams& p, typename C::Smem& smem, uint32_t wK, uint32_t wV,
                                             int tile) {
    if constexpr (C::kOptions) {  // H7
      C::CopyK::template clear<C::kTileK>(wK, k_lines(p, threadIdx.x));
    }
    const Found last = look_up(p, smem, tile), before = look_up(p, smem, tile - 1);
    publish(p, smem, tile, last);
    publish(p, smem, tile - 1, before);
    __syncthreads();  // H1: offsets
    copy_k(p, smem, wK, tile);
  }

  // Finds the page of this thread's key of a tile.
  __device__ __forceinline__ Found look_up(const PrefillParams& p, const typename C::Smem& smem, int tile) const {
    const int tid = ptx::reread_tid(), key = tile * C::kTileK + tid, first = smem.first, end = smem.end;
    Found found{bool((tid < C::kTileK) & (key >= first) & (key < end)), 0, static_cast<uint32_t>(key)};
    if (is_paged<C>(p)) {
      uint32_t at = __umulhi(key, p.page_reciprocal);  // the quotient, or one less
      const uint32_t rest = key - at * p.page_size;
      const bool less = rest >= static_cast<uint32_t>(p.page_size);
      found.slot = less ? rest - p.page_size : rest;
      if (found.wanted) found.page = ptx::ld_global_u32(smem.pages + 4ull * (less ? at + 1 : at));  // H5
    }
    return found;
  }

  // Checks what was found and leaves the offsets for all threads.
  __device__ __forceinline__ void publish(const PrefillParams& p, typename C::Smem& smem, int tile, Found found) {
    const int tid = ptx::reread_tid();
    const bool exists = found.wanted && (!is_paged<C>(p) || found.page < static_cast<uint32_t>(p.num_pages));
    if (found.wanted && !exists) atomicOr(&smem.bad_page, 1);
    absent = !exists;
    const auto offset = [&](int64_t stride_page, int64_t stride_token) {
      const uint32_t at = found.page * static_cast<uint32_t>(stride_page / 8) +
                          found.slot * static_cast<uint32_t>(stride_token / 8);
      return exists ? at : C::CopyK::kAbsent;
    };
    if (tid < C::kTileK) smem.k_offsets[tile & 1][tid] = offset(p.k_stride_page, p.k_stride_token);
    if (tid < C::kTileK) smem.v_offsets[tile & 1][tid] = offset(p.v_stride_page, p.v_stride_token);
  }

  __device__ __forceinline__ void copy_k(const PrefillParams& p, const typename C::Smem& smem, uint32_t wK, int tile) {
    const uint32_t tid = ptx::reread_tid();
    const uint32_t* offsets = smem.k_offsets[tile & 1] + C::CopyK::row(tid);
    C::CopyK::template gathered<C::kTileK, true>(wK, gK, offsets, k_lines(p, tid));
  }
  template <bool kMayLack>
  __device__ __forceinline__ void copy_v(const PrefillParams& p, const typename C::Smem& smem, uint32_t wV, int tile) {
    const uint32_t tid = ptx::reread_tid();
    const uint32_t* offsets = smem.v_offsets[tile & 1] + C::CopyV::row(tid);
    C::CopyV::template gathered<C::kTileK, kMayLack>(wV, gV, offsets, v_lines(p, tid));
  }

  // How many of the thread's lines of a row exist.
  static __device__ __forceinline__ int k_lines(const PrefillParams& p, uint32_t tid) {
    return C::kOptions ? C::CopyK::lines(tid, p.head_dim) : C::CopyK::kLines;
  }
  static __device__ __forceinline__ int v_lines(const PrefillParams& p, uint32_t tid) {
    return C::kOptions ? C::CopyV::lines(tid, p.v_dim) : C::CopyV::kLines;
  }
};

}  // namespace prefill
