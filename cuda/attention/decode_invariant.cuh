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

template <fragment::Element kElement, int kDim>
struct InvariantConfig : Config<kElement, kDim, /*kOptions=*/true> {
  using Base = Config<kElement, kDim, true>;
  static_assert(kSegment % Base::kChunk == 0, "whole steps");
  struct Smem : Base::Smem {
    int64_t units;  // of all blocks
    Share share;    // of this one. Here, not in registers, while the keys are attended to
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);
};

// What counts in segments what others count in chunks.
template <class C>
struct Segments : C {
  static constexpr int kChunk = kSegment;
};

// A segment of an item.
struct Part {
  Item item;     // no chunks: nothing to do. begins, ends: whether the block has all segments of the item up to here, and
                 // whether there is none behind this one
  int64_t next;  // the unit to go on with
  int place;     // of its state, among the block's
  int others;    // segments that follow it and that other blocks have, if this one has all that come before
  bool folds;    // whether there is a state in its place already
};

// The next segment that there is to do from unit `at` on, or none of this item. CTA-collective.
template <class C>
__device__ __forceinline__ Part part_at(const PrefillParams& p, typename C::Smem& smem, int64_t at, int window) {
  if (window + static_cast<int>(threadIdx.x) < p.batch) {
    const Sequence& mine = smem.table[threadIdx.x];
    if (mine.begin <= at && at < mine.end) smem.found = threadIdx.x;
  }
  __syncthreads();
  const int found = smem.found;
  const Sequence& seq = smem.table[found];
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
  const int segment = max(static_cast<int>(at - begin), first);

  Part part;
  const bool exists = segment < min(stop, end), last = segment + 1 >= end;
  part.next = begin + (!exists || last ? stop : segment + 1);
  part.item = {found, ptx::shfl_first(kv_head), first_row,
               ptx::shfl_first((seq.first_chunk + segment) * (kSegment / C::kChunk)), exists ? kSegment / C::kChunk : 0,
               0, begin + first >= share.begin, last};
  part.place = part.item.begins ? 0 : 1 + static_cast<int>(begin + segment - share.begin);
  part.folds = part.item.begins && segment > first;
  // H5: no more than there are, whatever the lengths are by now.
  const int64_t behind = min(static_cast<int64_t>(end - 1 - segment), smem.units - share.end);
  part.others = part.item.begins && begin + segment + 1 == share.end ? static_cast<int>(behind) : 0;
  return part;
}

// The warps' states of a segment, added up and to those of the segments before, if they are the block's: to the output, or
// to the block's partial results.
template <class C, class Tiles>
__device__ __forceinline__ void finish_segment(const InvariantParams& params, typename C::Smem& smem, const Sequence& seq,
                                               const Part& part, const Tiles& tiles, const typename C::Output& o,
                                               SoftmaxState<C::kBlocks>& state) {
  constexpr int kQuads = C::kValueDim / 4;             // columns are dealt with by fours
  constexpr int kLanes = kQuads < 32 ? kQuads : 32;    // for a row, all in one warp
  const PrefillParams& p = params.decode.attention;
  const Item& item = part.item;
  const uint32_t tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  Tiles::store(ptx::shared_address(&smem.rings[warp]), o);
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
  const int group = p.num_heads / p.num_kv_heads, rows = seq.q_len * group;
  const bool whole = item.begins && item.ends;
  float* place = params.decode.partials +
                 (static_cast<int64_t>(blockIdx.x) * params.places + part.place) * C::kPartial;
#pragma unroll 1
  for (int row = tid / kLanes; row < C::kTileQ; row += C::kThreads / kLanes) {
    const int at = item.first_row + row;
    const bool exists = at < rows;  // H4
    float* m = place + C::kTileQ * C::kValueDim + row;
    float* l = m + C::kTileQ;
    Sum before;
    if (exists && part.folds) {
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
        sum.add(smem.m[w][row], smem.l[w][row], *reinterpret_cast<const float4*>(from + Tiles::quad_at(row, quad)));
      }
      float4* to = reinterpret_cast<float4*>(place + row * C::kValueDim + 4 * quad);
      if (part.folds) {
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
      const Part part = part_at<C>(p, smem, at, window);
      at = part.next;
      if (part.item.chunks == 0) {
        __syncthreads();  // all know what was found
        continue;
      }
      const Sequence seq = smem.table[part.item.sequence];
      Tiles<C> tiles(params.decode, part.item);
      typename C::Output o = {};
      SoftmaxState<C::kBlocks> state;
      state.clear();
      attend<C>(p, smem, seq, part.item, tiles, o, state);
      finish_segment<C>(params, smem, seq, part, tiles, o, state);
      if (part.others > 0 && threadIdx.x == 0) {
        const Cut cut(smem.units, gridDim.x);
        const int each = static_cast<int>(min(cut.each, static_cast<int64_t>(INT32_MAX - 1)));
        params.splits[blockIdx.x] = {part.others, seq.q_start, part.item.first_row, seq.q_len * group, part.item.kv_head,
                                     each, static_cast<int>(cut.longer)};
      }
    }
  }
}

}  // namespace decode
