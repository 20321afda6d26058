// flash_decode_invariant: attention whose bits depend on nothing but the sequence: not on the rest of the batch, not on how
// many queries come at once, not on the number of blocks                  [batch invariance: split at fixed positions]
//
// Options  those of decode.cuh, shapes, layouts and rows too
// Segments the keys of a sequence are cut at multiples of 512, wherever its queries are. A segment is attended to from an
//          empty state, always in the same way: by the four warps of decode.cuh, whose states are added up in their order.
//          The states of a row's segments are added up from the first to the last, one by one. That is all there is to a
//          row's arithmetic; see Bits
// Grid     as many blocks as are wanted; a unit of decode_share.cuh is a segment here. A block adds up the segments of an
//          item that it has from the first on as it goes, in a place of its own in memory; those of an item that another
//          block began it leaves one by one. decode_invariant_merge.cuh adds up what is left
// Order    row blocks from both ends by turns: early ones see few keys, late ones see many. Segments that no row of an item
//          sees are passed over
// Block, Warps, Smem, Stages, Swizzle, Regs and hazards: as decode.cuh
// Bits     Of a row, nothing else decides: which rows share its item, since each row decides for itself when to rescale
//          (softmax_state.cuh) and no sum goes across rows; where in the item it is, since a tensor operation treats its
//          rows alike; segments and steps that only other rows see, whose weights are all 0: m stays, l gains 0, O gains
//          0·V, no more than the sign of a zero, which the output has not; steps that are passed over, for the same reason.
//          V that is NaN or infinite makes NaN of 0·V: where a key is live for some rows of an item and hidden from others,
//          those depend on which rows share their item
#pragma once

#include <cstdint>

#include "attention/decode.cuh"
#include "attention/decode_invariant_params.cuh"
#include "attention/decode_invariant_result.cuh"
#include "common/ptx.cuh"

namespace decode {

// Successive segments of an item.
struct Part {
  Item item;     // no chunks: nothing to do. begins, ends: whether they are the first that its rows see, the last
  int64_t next;  // the unit to go on with
  int place;     // of the first one's state, among the block's
  int others;    // if these are the first, how many follow that other blocks have
};

template <fragment::Element kElement, int kDim>
struct InvariantConfig : Config<kElement, kDim, /*kOptions=*/true> {
  using Base = Config<kElement, kDim, true>;
  static_assert(kSegment % Base::kChunk == 0, "whole steps");
  struct Smem : Base::Smem {
    // Here, not in registers, while keys are attended to.
    int64_t units;  // of all blocks
    Share share;    // of this one
    Part part;      // that it is at
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);
};

// What counts in segments what others count in chunks.
template <class C>
struct Segments : C {
  static constexpr int kChunk = kSegment;
};

// What there is to do of a sequence's item from unit `at` on. By one thread.
template <class C>
__device__ __forceinline__ Part part_of(const PrefillParams& p, const typename C::Smem& smem, const Sequence& seq,
                                        int64_t at) {
  const Share share = smem.share;
  const int64_t rank = (at - seq.begin) / seq.chunks, of_head = row_blocks(p, seq.q_len, C::kTileQ);
  const int64_t begin = seq.begin + rank * seq.chunks;  // the item's first unit
  const int kv_head = static_cast<int>(rank / of_head), nth = static_cast<int>(rank - kv_head * of_head);
  const int block = nth % 2 != 0 ? static_cast<int>(of_head) - 1 - nth / 2 : nth / 2;
  const int group = p.num_heads / p.num_kv_heads, first_row = block * C::kTileQ;
  const int last_row = min(first_row + C::kTileQ, seq.q_len * group) - 1;

  // Of the sequence's segments, those that the item's rows see; if there is none, the first stands for all.
  const KeySpan span = seen_by<C>(p, seq, first_row / group, last_row / group);
  const bool sees = span.first < span.end;
  const int first = sees ? span.first / kSegment - seq.first_chunk : 0;
  const int end = sees ? (span.end - 1) / kSegment + 1 - seq.first_chunk : 1;
  const int stop = static_cast<int>(min(share.end - begin, static_cast<int64_t>(seq.chunks)));
  const int from = max(static_cast<int>(at - begin), first), to = min(stop, end);

  constexpr int kChunks = kSegment / C::kChunk;
  Part part;
  part.next = begin + (from < to && to < end ? to : stop);
  part.item = {static_cast<int>(&seq - smem.table), kv_head, first_row, (seq.first_chunk + from) * kChunks,
               max(to - from, 0) * kChunks, 0, from == first, to == end};
  part.place = part.item.begins ? 0 : 1 + static_cast<int>(begin + from - share.begin);
  // H5: no more than there are, whatever the lengths are by now.
  part.others = part.item.begins ? static_cast<int>(min(static_cast<int64_t>(end - to), smem.units - share.end)) : 0;
  return part;
}

// The warps' states of the nth segment of a part, added up; to those of the segments before, if the part has them all. To
// the block's partial results, or if no segment is missing to the output.
template <class C>
__device__ __forceinline__ void finish_segment(const InvariantParams& params, typename C::Smem& smem, const Sequence& seq,
                                               const Part& part, int nth, const typename C::Output& o,
                                               SoftmaxState<C::kBlocks>& state) {
  constexpr int kQuads = C::kValueDim / 4;             // columns are dealt with by fours
  constexpr int kLanes = kQuads < 32 ? kQuads : 32;    // for a row, all in one warp
  const PrefillParams& p = params.decode.attention;
  const uint32_t tid = ptx::reread_tid(), lane = tid % 32, warp = tid / 32;
  Tiles<C>::store(ptx::shared_address(&smem.rings[warp]), o);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t row = fragment::acc_row(lane, 2 * h);
    const float l = fragment::quad_sum(state.l[h]);
    if (lane % 4 == 0) {
      smem.m[warp][row] = -state.neg_m[h];
      smem.l[warp][row] = l;
    }
  }
  __syncthreads();  // H3
  const Item& item = part.item;
  const int group = p.num_heads / p.num_kv_heads, rows = seq.q_len * group;
  const bool folds = item.begins && nth > 0;
  const bool whole = item.begins && item.ends && (nth + 1) * (kSegment / C::kChunk) == item.chunks;
  float* place = params.decode.partials + C::kPartial * (static_cast<int64_t>(blockIdx.x) * params.places + part.place +
                                                         (item.begins ? 0 : nth));
#pragma unroll 1
  for (int row = tid / kLanes; row < C::kTileQ; row += C::kThreads / kLanes) {
    const int at = item.first_row + row;
    const bool exists = at < rows;  // H4
    float* m = place + C::kTileQ * C::kValueDim + row;
    float* l = m + C::kTileQ;
    Sum before;
    if (exists && folds) {
      before.m = *m;
      before.l = *l;
    }
    __syncwarp();  // the row's other lanes have read what one of them replaces
#pragma unroll 1
    for (int quad = tid % kLanes; exists && quad < kQuads; quad += kLanes) {
      Sum sum;
#pragma unroll
      for (int w = 0; w < C::kWarps; ++w) sum.consider(smem.m[w][row]);
#pragma unroll
      for (int w = 0; w < C::kWarps; ++w) {
        const float* from = reinterpret_cast<const float*>(&smem.rings[w]);
        sum.add(smem.m[w][row], smem.l[w][row], *reinterpret_cast<const float4*>(from + Tiles<C>::quad_at(row, quad)));
      }
      float4* to = reinterpret_cast<float4*>(place + row * C::kValueDim + 4 * quad);
      if (folds) {
        before.o = *to;
        sum = folded(before, sum);
      }
      if (!whole) {
        *to = sum.o;
        if (quad == 0) *m = sum.m;
        if (quad == 0) *l = sum.l;
      } else if (4 * quad < p.v_dim) {  // H7
        const int64_t token = static_cast<int64_t>(seq.q_start) + at / group;
        write_unsigned_zeros<C::kElement>(p, sum, token, item.kv_head * group + at % group, quad);
      }
    }
  }
  __syncthreads();  // H3
}

// A warp's keys of each segment, attended to from an empty state. CTA-collective.
template <class C>
__device__ __forceinline__ void attend_segments(const InvariantParams& params, typename C::Smem& smem,
                                                const Sequence& seq, const Part& part) {
  const PrefillParams& p = params.decode.attention;
  const Item& item = part.item;
  Tiles<C> tiles(params.decode, item);
  Keys<C> keys;
  keys.point(p, smem, seq, item);
  int key0 = keys.start(item);
  Found found = keys.look_up(p, key0);
  tiles.fetch(p, smem, seq, item);
  ptx::cp_async_commit_group();
  const Bias bias = bias_of<C>(p, seq, item);
  Step step = keys.settle(p, found, key0);
  found = keys.look_up(p, key0 + C::kChunk);
  ptx::cp_async_wait_group<0>();
  __syncthreads();
  tiles.settle(smem);
  const float scale = prefill::scale_log2<C>(p);

#pragma unroll 1
  for (int done = 0; done < item.chunks * C::kChunk; done += kSegment) {  // H6
    const int end = ptx::shfl_first(min(keys.end, item.chunk * C::kChunk + done + kSegment));
    const bool works = key0 < end;
    if (works) keys.copy_k(p, step);
    ptx::cp_async_commit_group();
    if (works) keys.copy_v(p, step);
    ptx::cp_async_commit_group();
    typename C::Output o = {};
    SoftmaxState<C::kBlocks> state;
    state.clear();
    while (key0 < end) {
      ptx::cp_async_wait_group<1>();
      __syncwarp();  // H1: K[j]
      typename C::Scores s;
      tiles.score(s);
      __syncwarp();  // H2: K[j] is no longer read
      const int next0 = key0 + C::kChunk;
      const Step next = keys.settle(p, found, next0);
      if (next0 < end) keys.copy_k(p, next);
      ptx::cp_async_commit_group();
      found = keys.look_up(p, next0 + C::kChunk);
      reshape<C>(p, s, bias, key0);
      if (step.edge) mask_unseen<C>(s, step.seen);
      state.raise(s, scale, o);
      ptx::cp_async_wait_group<1>();
      __syncwarp();  // H1: V[j]
      tiles.accumulate(o, state, s, scale);
      __syncwarp();  // H2: V[j] is no longer read
      if (next0 < end) keys.copy_v(p, next);
      ptx::cp_async_commit_group();
      step = next;
      key0 = next0;
    }
    finish_segment<C>(params, smem, seq, part, done / kSegment, o, state);
  }
  if (keys.bad_page) report(p.status, Offence::kPageId, seq.index);
}

template <class C>
__device__ __forceinline__ void flash_decode_invariant(const InvariantParams& params) {
  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  typename C::Smem& smem = *reinterpret_cast<typename C::Smem*>(dynamic_smem);
  const PrefillParams& p = params.decode.attention;
  const int group = p.num_heads / p.num_kv_heads;

  int64_t units = 0;
#pragma unroll 1
  for (int window = 0; window < p.batch; window += C::kThreads) {
    __syncthreads();
    units = tabulate<Segments<C>>(params.decode, smem, window, units, /*reports=*/blockIdx.x == 0);
  }
  if (threadIdx.x == 0) {
    smem.units = units;
    smem.share = Cut(units, gridDim.x).share(blockIdx.x);
    params.splits[blockIdx.x].others = 0;
  }
  __syncthreads();

  int64_t at = smem.share.begin, window_end = units;
#pragma unroll 1
  for (int window = 0; at < smem.share.end && window < p.batch; window += C::kThreads) {
    if (p.batch > C::kThreads) {  // else the table is still there
      __syncthreads();
      window_end = tabulate<Segments<C>>(params.decode, smem, window, window == 0 ? 0 : window_end, /*reports=*/false);
    }
    while (at < smem.share.end && at < window_end) {  // H6
      const int tid = ptx::reread_tid();
      if (window + tid < p.batch) {
        const Sequence& mine = smem.table[tid];
        if (mine.begin <= at && at < mine.end) smem.part = part_of<C>(p, smem, mine, at);
      }
      __syncthreads();
      const Part& part = smem.part;
      const Sequence& seq = smem.table[part.item.sequence];
      if (part.item.chunks > 0) attend_segments<C>(params, smem, seq, part);
      if (part.item.chunks > 0 && part.others > 0 && threadIdx.x == 0) {
        const Cut cut(smem.units, gridDim.x);
        const int each = static_cast<int>(min(cut.each, static_cast<int64_t>(INT32_MAX - 1)));
        params.splits[blockIdx.x] = {part.others, seq.q_start, part.item.first_row, seq.q_len * group, part.item.kv_head,
                                     each, static_cast<int>(cut.longer)};
      }
      at = part.next;
      __syncthreads();  // all have read the part
    }
  }
}

}  // namespace decode
