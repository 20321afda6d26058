// Who does what: all work of a launch, laid out in a line and cut into equal shares, one for each block.
//
// An item is 16 rows (pairs of query token and head of the group) of one sequence and KV head; a unit is a chunk of the
// keys that the sequence's queries see, of one item. Units follow each other by sequence, KV head, row block and key. Every
// block finds its share by itself from the lengths in device memory: a recorded launch stays right, and balanced, when
// they change.
#pragma once

#include <cstdint>

#include "attention/decode_config.cuh"
#include "attention/decode_params.cuh"
#include "attention/prefill_sequence.cuh"
#include "common/ptx.cuh"
#include "common/scan.cuh"
#include "common/status.cuh"

namespace decode {

using prefill::Reach;

// Where sequence b's queries begin, if there is no telling that a row is not its own: no sequence before it may have an
// offset behind its first. A negative first offset spoils all others.
__device__ __forceinline__ int32_t offset_of_queries(const int32_t* offsets, int b) {
  const int32_t offset = offsets[b];
  return b == 0 && offset < 0 ? INT32_MAX : offset;
}

// The sequence's rows of q, in seq; whether they are to be computed. floor: the greatest of the offsets before.
__device__ __forceinline__ bool check_queries(const DecodeParams& params, Sequence& seq, int b, int32_t q_start,
                                              int32_t floor, bool reports) {
  const PrefillParams& p = params.attention;
  if (p.cu_seqlens_q == nullptr) {
    seq.q_start = b * params.q_len;
    seq.q_len = params.q_len;
    return true;
  }
  const int32_t q_end = p.cu_seqlens_q[b + 1];
  const bool bad = q_start < floor || q_end < q_start || q_end > p.total_q || (b == 0 && q_start == INT32_MAX);
  const bool too_long = !bad && q_end - q_start > p.max_seqlen_q;
  if (reports && bad) report(p.status, Offence::kSeqLensQ, b);
  if (reports && too_long) report(p.status, Offence::kSeqLenTooLong, b);
  seq.q_start = q_start;
  seq.q_len = bad || too_long ? 0 : q_end - q_start;
  return !bad && !too_long;
}

// The sequence's keys and where to find them, in seq.
template <class C>
__device__ __forceinline__ void check_keys(const PrefillParams& p, Sequence& seq, int b, bool reports) {
  const int32_t k_len = p.seqlens_k[b];
  const bool bad = k_len < 0 || k_len > p.total_k;
  if (reports && bad) report(p.status, Offence::kSeqLensK, b);
  seq.k_len = bad ? 0 : k_len;
  seq.pages = b * p.page_table_stride;
  int64_t pages = p.page_table_len;
  bool bad_range = false;
  if (p.page_indptr != nullptr) {
    const int32_t from = p.page_indptr[b], to = p.page_indptr[b + 1];
    bad_range = from < 0 || to < from || to > p.page_table_len;
    seq.pages = bad_range ? 0 : from;
    pages = bad_range ? 0 : to - from;
  }
  const int64_t held = pages * p.page_size;
  if (reports && !bad && (bad_range || held < seq.k_len)) report(p.status, Offence::kPageRange, b);
  seq.keys = held < seq.k_len ? static_cast<int32_t>(held) : seq.k_len;
  seq.mask = 0;
  if constexpr (C::kOptions) {
    if (p.mask_offsets == nullptr) return;
    const int32_t from = p.mask_offsets[b], to = p.mask_offsets[b + 1];
    const bool good = from >= 0 && to >= from && to <= p.mask_bytes &&
                      8 * static_cast<int64_t>(to - from) >= static_cast<int64_t>(seq.q_len) * seq.k_len;
    if (reports && !good) report(p.status, Offence::kMask, b);
    seq.mask = good ? from : 0;
    if (!good) seq.keys = 0;
  }
}

// The keys first..end that some of the query tokens from..to of a sequence see.
struct KeySpan {
  int first, end;
};

template <class C>
__device__ __forceinline__ KeySpan seen_by(const PrefillParams& p, const Sequence& seq, int from, int to) {
  const Reach r = prefill::reach<C>(p);
  const int64_t shift = static_cast<int64_t>(seq.k_len) - seq.q_len;  // from a query's index to its position
  return {prefill::clamped(from + shift - r.left, seq.keys), prefill::clamped(to + shift + r.right + 1, seq.keys)};
}

__device__ __forceinline__ int64_t row_blocks(const PrefillParams& p, int q_len, int rows) {
  return (static_cast<int64_t>(q_len) * (p.num_heads / p.num_kv_heads) + rows - 1) / rows;
}

// Fills the table with the kThreads sequences from `window` on, whose units begin behind `units` others. Returns where
// their units end. CTA-collective; the table is free before, and complete behind the return.
template <class C>
__device__ __forceinline__ int64_t tabulate(const DecodeParams& params, typename C::Smem& smem, int window,
                                            int64_t units, bool reports) {
  const PrefillParams& p = params.attention;
  const int b = window + threadIdx.x;
  const bool exists = b < p.batch;
  int32_t q_start = 0, floor = 0;
  if (p.cu_seqlens_q != nullptr) {
    q_start = exists ? offset_of_queries(p.cu_seqlens_q, b) : INT32_MIN;
    int32_t top;
    floor = scan::exclusive<C::kThreads>(q_start, INT32_MIN, smem.tops, top, [](int x, int y) { return max(x, y); });
    const int32_t before = window == 0 ? 0 : smem.floor;
    floor = max(floor, before);
    __syncthreads();  // all have read smem.floor
    if (threadIdx.x == 0) smem.floor = max(top, before);
  }
  Sequence seq;
  int64_t count = 0;
  if (exists) {
    seq.index = b;
    const bool wanted = check_queries(params, seq, b, q_start, floor, reports);
    check_keys<C>(p, seq, b, reports);
    const KeySpan span = seen_by<C>(p, seq, 0, seq.q_len - 1);
    seq.first_chunk = span.first / C::kChunk;
    seq.chunks = span.first < span.end ? (span.end - 1) / C::kChunk + 1 - seq.first_chunk : 1;
    if (wanted) count = p.num_kv_heads * row_blocks(p, seq.q_len, C::kTileQ) * seq.chunks;
  }
  int64_t total;
  seq.begin = units + scan::exclusive<C::kThreads>(count, int64_t{0}, smem.sums, total,
                                                   [](int64_t x, int64_t y) { return x + y; });
  seq.end = seq.begin + count;
  if (exists) smem.table[threadIdx.x] = seq;
  __syncthreads();
  return units + total;
}

// The units begin..end of one block.
struct Share {
  int64_t begin, end;
};

// The line of all units cut in `blocks` pieces whose lengths differ by one at most, the longer ones first.
struct Cut {
  int64_t each, longer;

  __device__ __forceinline__ Cut(int64_t units, int blocks) : each(units / blocks), longer(units % blocks) {}

  __device__ __forceinline__ Share share(int block) const {
    const int64_t begin = block * each + min(static_cast<int64_t>(block), longer);
    return {begin, begin + each + (block < longer)};
  }
  // The block that has this unit, of those that there are. Lengths may have changed: of a unit that is not there, any.
  __device__ __forceinline__ int owner(int64_t unit) const {
    const int64_t of_longer = longer * (each + 1);
    return static_cast<int>(unit < of_longer ? unit / (each + 1) : longer + (unit - of_longer) / max(each, int64_t{1}));
  }
};

// A block's part of an item.
struct Item {
  int sequence;   // index into the table
  int kv_head;
  int first_row;
  int chunk, chunks;  // the first, and how many
  int64_t end;        // the unit behind the item's last
  bool begins, ends;  // whether the part has the item's first chunk, its last
};

// What there is to do from unit `at` on, of a share of the table's units. CTA-collective.
template <class C>
__device__ __forceinline__ Item item_at(const PrefillParams& p, typename C::Smem& smem, int64_t at, int64_t share_end,
                                        int window) {
  if (window + static_cast<int>(threadIdx.x) < p.batch) {
    const Sequence& mine = smem.table[threadIdx.x];
    if (mine.begin <= at && at < mine.end) smem.found = threadIdx.x;
  }
  __syncthreads();
  const int found = smem.found;
  const Sequence& seq = smem.table[found];
  const int64_t item = (at - seq.begin) / seq.chunks, of_head = row_blocks(p, seq.q_len, C::kTileQ);
  const int done = static_cast<int>(at - seq.begin - item * seq.chunks);
  const int left = seq.chunks - done;
  const int chunks = share_end - at < left ? static_cast<int>(share_end - at) : left;
  const int kv_head = static_cast<int>(item / of_head);
  return {found, ptx::shfl_first(kv_head), static_cast<int>(item - kv_head * of_head) * C::kTileQ,
          ptx::shfl_first(seq.first_chunk + done), ptx::shfl_first(chunks), at + left, done == 0, chunks == left};
}

}  // namespace decode
