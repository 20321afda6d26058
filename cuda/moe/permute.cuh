// moe_count, moe_place: a stable counting sort of pairs by expert
//
// Shapes   ids [pairs] → order [pairs], offsets [here + 1]
// Grid     (ceil(pairs / per_block))   Block 256 = 8 warps
// Count    counts[block][e]: how many of the block's pairs go to e. Not launched where one block has all
// Place    a pair's place is the number of pairs that go to earlier experts, plus those to the same in earlier blocks, in
//          earlier warps of the block (each warp has a range of its own), and earlier in the warp. All are counted, none
//          is drawn from an atomic: the order is that of the pairs, always
// Smem     8 warps × 545 counters of 4 bytes = 17,440 B, and 545 places
// Hazards  H1 an id is read twice, by both passes: each uses only what it read, and writes only to places below `pairs`
//          H2 a warp's counters are its own; one lane of those with the same expert writes, then the warp meets
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/status.cuh"
#include "moe/experts.cuh"
#include "moe/permute_params.cuh"
#include "moe/warp.cuh"

namespace moe {

struct PermuteConfig {
  static constexpr int kThreads = 256, kWarps = kThreads / 32, kStages = 1;
  static constexpr int kBuckets = 512 + 32 + 1;  // experts, shared ones, and none
  static constexpr int kTileQ = kThreads, kTileK = kBuckets;
  static constexpr uint32_t kSmemBytes = (kWarps + 1) * kBuckets * sizeof(int);
};

struct Counters {
  int of_warp[PermuteConfig::kWarps][PermuteConfig::kBuckets];
  int start[PermuteConfig::kBuckets];
};

__device__ __forceinline__ Experts experts(const PermuteParams& p) { return {p.routed, p.shared, p.first, p.local}; }

// f(pair, bucket, peers below, peers) for each pair of this warp's range, with the lanes that have the same bucket at the
// same time; the counter of the bucket is f's to read and, in the lowest lane of the peers, to write. H2
template <class F>
__device__ __forceinline__ void each_pair(const PermuteParams& p, int warp, int lane, F&& f) {
  const Experts here = experts(p);
  const int per_warp = p.per_block / PermuteConfig::kWarps;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * p.per_block + warp * per_warp;
  const int64_t end = min(first + per_warp, static_cast<int64_t>(p.pairs));
  for (int64_t at = first; at < end; at += 32) {
    const int64_t pair = at + lane;
    const bool exists = pair < end;
    const int32_t id = exists ? p.ids[pair] : -1;
    const int bucket = exists ? here.index(id) : PermuteConfig::kBuckets;
    const uint32_t peers = __match_any_sync(0xffffffffu, bucket);
    if (exists) f(static_cast<int>(pair), id, bucket, __popc(peers & ((1u << lane) - 1)), __popc(peers));
    __syncwarp();
  }
}

// What goes to each bucket, by warp.
__device__ __forceinline__ void count_pairs(const PermuteParams& p, Counters& counters, int warp, int lane) {
  for (int i = threadIdx.x; i < PermuteConfig::kWarps * PermuteConfig::kBuckets; i += PermuteConfig::kThreads) {
    counters.of_warp[0][i] = 0;
  }
  __syncthreads();
  each_pair(p, warp, lane, [&](int, int32_t, int bucket, int below, int peers) {
    if (below == 0) counters.of_warp[warp][bucket] += peers;
  });
  __syncthreads();
}

__device__ __forceinline__ void count(const PermuteParams& p) {
  extern __shared__ __align__(16) unsigned char smem[];
  Counters& counters = *reinterpret_cast<Counters*>(smem);
  count_pairs(p, counters, ptx::shfl_first(threadIdx.x / 32), threadIdx.x % 32);
  const int buckets = experts(p).here() + 1;
  for (int e = threadIdx.x; e < buckets; e += PermuteConfig::kThreads) {
    int sum = 0;
    for (int w = 0; w < PermuteConfig::kWarps; ++w) sum += counters.of_warp[w][e];
    p.counts[static_cast<int64_t>(blockIdx.x) * buckets + e] = sum;
  }
}

// Counters become places: where the next pair of each warp and bucket belongs.
__device__ __forceinline__ void place_buckets(const PermuteParams& p, Counters& counters, int warp, int lane) {
  const int buckets = experts(p).here() + 1, blocks = gridDim.x;
  // Pairs of the bucket: of all blocks; of the earlier ones.
  const auto in_blocks = [&](int e, int end) {
    int sum = 0;
    for (int block = 0; block < end; ++block) sum += p.counts[static_cast<int64_t>(block) * buckets + e];
    return sum;
  };
  for (int e = threadIdx.x; e < buckets; e += PermuteConfig::kThreads) {
    int sum = 0;
    for (int w = 0; w < PermuteConfig::kWarps; ++w) sum += counters.of_warp[w][e];
    counters.start[e] = blocks == 1 ? sum : in_blocks(e, blocks);
  }
  __syncthreads();
  if (warp == 0) {  // sums become starts
    int before = 0;
    for (int first = 0; first < buckets; first += 32) {
      const int e = first + lane, own = e < buckets ? counters.start[e] : 0;
      const int sum = prefix_sum(own, lane);
      if (e < buckets) counters.start[e] = before + sum - own;
      before += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < buckets; e += PermuteConfig::kThreads) {
    int place = counters.start[e];
    if (blockIdx.x == 0) p.offsets[e] = place;
    if (blocks > 1) place += in_blocks(e, blockIdx.x);
    for (int w = 0; w < PermuteConfig::kWarps; ++w) {
      const int own = counters.of_warp[w][e];
      counters.of_warp[w][e] = place;
      place += own;
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void place(const PermuteParams& p) {
  extern __shared__ __align__(16) unsigned char smem[];
  Counters& counters = *reinterpret_cast<Counters*>(smem);
  const int warp = ptx::shfl_first(threadIdx.x / 32), lane = threadIdx.x % 32;
  count_pairs(p, counters, warp, lane);
  place_buckets(p, counters, warp, lane);
  each_pair(p, warp, lane, [&](int pair, int32_t id, int bucket, int below, int peers) {
    const int base = counters.of_warp[warp][bucket];
    if (!experts(p).valid(id)) report(p.status, kExpertId, pair / p.slots);
    if (static_cast<uint32_t>(base + below) < p.pairs) p.order[base + below] = pair;  // H1
    __syncwarp(__activemask());
    if (below == 0) counters.of_warp[warp][bucket] = base + peers;
  });
}

}  // namespace moe
