// A CTA's share of the batch: lengths and page lists, read from device memory once, checked, and reported when bad; and
// which keys its queries may see.
#pragma once

#include <cstdint>

#include "attention/prefill_config.cuh"
#include "attention/prefill_params.cuh"
#include "common/ptx.cuh"

namespace prefill {

constexpr float kLog2E = 1.44269504088896341f;

// One sequence's checked share of the batch. q_len = 0: nothing to do. good_k: whether its keys' bounds were good.
struct Sequence {
  int q_start, q_len, k_start, k_len;
  bool good_k;
};

// Whether keys lie in pages.
template <class C>
__device__ __forceinline__ bool is_paged(const PrefillParams& p) {
  return C::kGather && (!C::kOptions || p.seqlens_k != nullptr);
}

// Reads and checks the sequence's bounds, reporting what is wrong with them. A range of queries is accepted only if no
// earlier sequence reaches into it, whatever the others hold: two sequences never write the same row. CTA-collective.
template <class C>
__device__ __forceinline__ Sequence checked_sequence(const PrefillParams& p, int32_t (&bounds)[4]) {
  const int b = blockIdx.z;
  if (threadIdx.x == 0) {  // H5: one load each, for all threads
    bounds[0] = p.cu_seqlens_q[b];
    bounds[1] = p.cu_seqlens_q[b + 1];
    bounds[2] = is_paged<C>(p) ? 0 : p.cu_seqlens_k[b];
    bounds[3] = is_paged<C>(p) ? p.seqlens_k[b] : p.cu_seqlens_k[b + 1];
  }
  __syncthreads();
  const int q_start = bounds[0], q_end = bounds[1], k_start = bounds[2], k_end = bounds[3];
  bool overlaps = false;
#pragma unroll 1
  for (int i = threadIdx.x; i < b; i += C::kThreads) {
    const int earlier = p.cu_seqlens_q[i];
    overlaps |= earlier > q_start || (i == 0 && earlier < 0);
  }
  const bool bad_q = __syncthreads_or(overlaps) || q_start < 0 || q_end < q_start || q_end > p.total_q;
  const bool too_long = !bad_q && q_end - q_start > p.max_seqlen_q;
  const bool bad_k = k_start < 0 || k_end < k_start || k_end > p.total_k;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    if (bad_q) report(p.status, Offence::kSeqLensQ, b);
    if (too_long) report(p.status, Offence::kSeqLenTooLong, b);
    if (bad_k) report(p.status, Offence::kSeqLensK, b);
  }
  return {ptx::shfl_first(q_start), ptx::shfl_first(bad_q || too_long ? 0 : q_end - q_start),
          ptx::shfl_first(k_start), ptx::shfl_first(bad_k ? 0 : k_end - k_start), !bad_k};
}

// How many of the sequence's keys have a page, from the page list's checked bounds. By one thread.
template <class C>
__device__ __forceinline__ int64_t paged_keys(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                              bool reports) {
  const int b = blockIdx.z;
  int64_t first = b * p.page_table_stride, pages = p.page_table_len;
  bool bad = false;
  if (p.page_indptr != nullptr) {
    const int from = p.page_indptr[b], to = p.page_indptr[b + 1];  // H5: one load each
    bad = from < 0 || to < from || to > p.page_table_len;
    first = bad ? 0 : from;
    pages = bad ? 0 : to - from;
  }
  smem.pages = ptx::global_address(p.page_table) + 4 * first;
  const int64_t keys = pages * p.page_size;
  if (reports && seq.good_k && (bad || keys < seq.k_len)) report(p.status, Offence::kPageRange, b);
  return min(keys, static_cast<int64_t>(seq.k_len));
}

// Whether the mask's checked bounds leave a bit for each query and key. By one thread.
template <class C>
__device__ __forceinline__ bool has_bits(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                         bool reports) {
  const int b = blockIdx.z;
  const int from = p.mask_offsets[b], to = p.mask_offsets[b + 1];  // H5: one load each
  const bool good = from >= 0 && to >= from && to <= p.mask_bytes &&
                    8 * static_cast<int64_t>(to - from) >= static_cast<int64_t>(seq.q_len) * seq.k_len;
  smem.mask = ptx::global_address(p.mask) + (good ? from : 0);
  if (reports && !good) report(p.status, Offence::kMask, b);
  return good;
}

// Reads what there is to know about the sequence beyond its lengths. Thread 0 knows smem.keys from then on, the others
// behind a barrier.
template <class C>
__device__ __forceinline__ void inspect(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq) {
  if (threadIdx.x != 0) return;
  const bool reports = blockIdx.x == 0 && blockIdx.y == 0;
  smem.keys = is_paged<C>(p) ? paged_keys<C>(p, smem, seq, reports) : seq.k_len;
  if constexpr (C::kOptions) {
    if (p.mask_offsets != nullptr && !has_bits<C>(p, smem, seq, reports)) smem.keys = 0;
    if (p.alibi_slopes != nullptr) smem.slope_log2 = p.alibi_slopes[blockIdx.y] * kLog2E;
  }
}

// The key tiles begin..end that a CTA visits: all that its rows see. Of full_begin..full_end all of its rows see all.
struct Span {
  int begin, end, full_begin, full_end;
};

// x within 0..most.
__device__ __forceinline__ int clamped(int64_t x, int most) {
  return static_cast<int>(x < 0 ? 0 : x < most ? x : most);
}

// How far before and behind its own position a query sees.
struct Reach {
  int64_t left, right;
};

template <class C>
__device__ __forceinline__ Reach reach(const PrefillParams& p) {
  constexpr int64_t kAll = 1ll << 32;  // beyond every distance
  Reach r{kAll, p.causal ? 0 : kAll};
  if constexpr (C::kOptions) {
    if (p.window_left >= 0) r.left = p.window_left;
    if (p.window_right >= 0 && !p.causal) r.right = p.window_right;
  }
  return r;
}

// The tiles of ragged keys without options: row i sees the keys up to k_len - 1 + (i + 1 - q_len). Differences of
// lengths cannot overflow.
template <class C>
__device__ __forceinline__ Span ragged_span(const PrefillParams& p, const Sequence& seq, int q_rows) {
  const int unseen = p.causal ? max(q_rows - C::kTileQ, 0) : 0;  // trailing keys that no row of the tile sees
  const int unshared = p.causal ? q_rows - 1 : 0;                // trailing keys that its first row does not see
  const int tiles = seq.k_len > unseen ? (seq.k_len - unseen - 1) / C::kTileK + 1 : 0;
  const int full_tiles = max(seq.k_len - unshared, 0) / C::kTileK;
  return {0, tiles, 0, full_tiles};
}

// What the CTA's rows see of keys that are gathered, for look-ups, masks and the walk. CTA-collective, after `inspect`.
template <class C>
__device__ __forceinline__ Span survey(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                       int q_first) {
  if (threadIdx.x == 0) {
    const int64_t from = static_cast<int64_t>(q_first) + seq.k_len - seq.q_len;  // positions of the CTA's rows
    const int64_t to = from + min(C::kTileQ, seq.q_len - q_first) - 1;
    const Reach r = reach<C>(p);
    const int keys = smem.keys;
    smem.bad_page = 0;
    smem.first = clamped(from - r.left, keys);
    smem.end = clamped(to + r.right + 1, keys);
    smem.full_first = clamped(to - r.left, keys);
    smem.full_end = clamped(from + r.right + 1, keys);
  }
  __syncthreads();
  Span span{0, 0, 0, 0};
  if (smem.first < smem.end) {
    span.begin = smem.first / C::kTileK;
    span.end = (smem.end - 1) / C::kTileK + 1;
    span.full_begin = (smem.full_first + C::kTileK - 1) / C::kTileK;
    span.full_end = smem.full_end / C::kTileK;
    if (C::kOptions && p.mask_offsets != nullptr) span.full_end = 0;
  }
  return {ptx::shfl_first(span.begin), ptx::shfl_first(span.end), ptx::shfl_first(span.full_begin),
          ptx::shfl_first(span.full_end)};
}

}  // namespace prefill
