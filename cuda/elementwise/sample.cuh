// sample: a token for each row of logits: the most likely one, or one drawn from the top k, or top p, at a temperature
//
//   w_i = ⌊2^39 · e^((l_i - max l) / temperature)⌋                        integers, see weight.cuh
//   ranks: by weight from above, equal weights by id.  top k: ranks below k.  top p: ranks before which the weights sum up
//   to at most p of what top k has left.  token: the smallest id up to which the kept weights exceed a random share
//
// Shapes   logits [rows, vocab] → tokens [rows]; see sample_params.cuh
// Grid     (rows)   Block 256 = 8 warps
// Lanes    a segment of 256 tokens belongs to a warp, 8 of them, 16 or 32 bytes, to a lane; the next one is on its way
// Smem     64 KiB: for each thread counts and sums of the tokens that it has seen, by 32 values of 5 bits of their keys; then
//          sums of segments
// Cut      radix selection: 5 bits of the key in each pass, from the highest, until one token or all of a bin's decide
// Hazards  H1 options of a row are read once, by one thread, and checked; all others have them from shared memory
//          H2 a thread adds to its own column of the histogram only: no atomics, no bank conflicts
//          H3 logits are read several times: should they change meanwhile, a target may lie nowhere
// Numerics sums of integers: the token depends on nothing but the row, its options and its draw
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/scan.cuh"
#include "elementwise/chunk.cuh"
#include "elementwise/embed_params.cuh"
#include "elementwise/offences.cuh"
#include "elementwise/sample_params.cuh"
#include "elementwise/weight.cuh"
#include "moe/warp.cuh"

namespace elementwise {

// What a row is sampled by, checked.
struct Options {
  float factor;       // log2(e) / temperature; 0: the most likely token
  uint32_t top_k;     // 0: all
  uint64_t top_p;     // in units of 2^-64
  bool has_top_p;
};

struct SampleConfig {
  static constexpr int kThreads = 256, kWarps = kThreads / 32, kBits = 5, kBins = 1 << kBits;
  static constexpr int kSegment = 32 * kChunk, kMostSegments = 2048;  // tokens of one, segments of a row
  static constexpr int kTileQ = 1, kTileK = kSegment * kMostSegments, kStages = 1;  // the largest vocabulary
  struct Smem {
    union {
      uint64_t of_threads[kBins][kThreads];  // count << 52 | sum of weights
      uint64_t of_segments[kMostSegments];
    };
    uint64_t sums[kBins];
    uint32_t counts[kBins];
    uint64_t room[kWarps];
    Options options;
    uint64_t rest;
    int32_t segment, token;
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);
};
using SampleSmem = SampleConfig::Smem;

// Tokens that are kept: those of larger keys than this, and of this key those with ids up to `last`.
struct Cut {
  uint32_t key;
  uint32_t ties;  // of this key; all: ~0
  int32_t last;
};

__device__ __forceinline__ uint64_t warp_sum(uint64_t value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  return value;
}

// Logits of this lane in a segment; -inf for NaN and for those beyond the vocabulary. Whether there was NaN.
__device__ __forceinline__ bool load_logits(Chunk& x, const SampleParams& p, int first) {
  const int64_t at = blockIdx.x * p.logits_stride + first;
  const int exist = p.vocab - first;
  const bool whole = p.aligned && exist >= kChunk;
  if (p.dtype == static_cast<int32_t>(Stored::kF32)) {
    const float* from = static_cast<const float*>(p.logits) + at;
    if (whole) {
      load_f32(x, from, kChunk);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] = i < exist ? from[i] : -INFINITY;
    }
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(p.logits) + at;
    Packed packed = {};
    if (whole) {
      packed = load(from, kChunk);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i < exist) packed.pair[i / 2] |= static_cast<uint32_t>(from[i]) << i % 2 * 16;
      }
    }
    if (p.dtype == static_cast<int32_t>(Stored::kF16)) {
      unpack<fragment::Element::kF16>(x, packed);
    } else {
      unpack<fragment::Element::kBf16>(x, packed);
    }
  }
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    nan |= i < exist && x[i] != x[i];
    x[i] = i < exist && x[i] == x[i] ? x[i] : -INFINITY;
  }
  return nan;
}

__device__ __forceinline__ int first_of(int segment) {
  return segment * SampleConfig::kSegment + threadIdx.x % 32 * kChunk;
}

// f(segment, first token of this lane, its logits) for each segment of this warp. Warp-collective; whether there was NaN.
template <class F>
__device__ __forceinline__ bool sweep(const SampleParams& p, F&& f) {
  const int segments = (p.vocab + SampleConfig::kSegment - 1) / SampleConfig::kSegment;
  const int warp = ptx::shfl_first(threadIdx.x / 32);
  Chunk next = {};
  bool nan = false;
#pragma unroll 1
  for (int segment = warp - SampleConfig::kWarps; segment < segments; segment += SampleConfig::kWarps) {
    Chunk x;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = next[i];
    const int ahead = segment + SampleConfig::kWarps;
    if (ahead < segments) nan |= load_logits(next, p, first_of(ahead));
    if (segment >= 0) f(segment, first_of(segment), x);
  }
  return nan;
}

// The largest logit and the lowest id that has it; -1 if none is above -inf. CTA-collective.
__device__ __forceinline__ int most_likely(const SampleParams& p, SampleSmem& s, float& most) {
  float best = -INFINITY;
  int id = 0;
  const bool nan = sweep(p, [&](int, int first, const Chunk& x) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (x[i] > best) best = x[i], id = first + i;
    }
  });
  uint64_t key = best > -INFINITY ? static_cast<uint64_t>(moe::order_key(best)) << 32 | ~static_cast<uint32_t>(id) : 0;
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, key, mask);
    key = key > other ? key : other;
  }
  if (threadIdx.x % 32 == 0) s.room[threadIdx.x / 32] = key;
  const bool any_nan = __syncthreads_or(nan);
#pragma unroll
  for (int i = 0; i < SampleConfig::kWarps; ++i) key = key > s.room[i] ? key : s.room[i];
  if (threadIdx.x == 0 && (any_nan || key == 0)) report(static_cast<Status*>(p.status), kLogits, blockIdx.x);
  __syncthreads();
  most = moe::from_order_key(static_cast<uint32_t>(key >> 32));
  return key == 0 ? -1 : static_cast<int>(~static_cast<uint32_t>(key));
}

// Reads and checks the row's options, and says that no token is found yet. CTA-collective.
__device__ __forceinline__ Options checked_options(const SampleParams& p, SampleSmem& s) {
  if (threadIdx.x == 0) {  // H1
    const int row = blockIdx.x;
    const float temperature = p.temperature != nullptr ? p.temperature[row] : 0.0f;
    const int top_k = p.top_k != nullptr ? p.top_k[row] : 0;
    const float top_p = p.top_p != nullptr ? p.top_p[row] : 1.0f;
    const bool draws = temperature > 0.0f && temperature < INFINITY;
    if ((!draws && temperature != 0.0f) || top_p != top_p) report(static_cast<Status*>(p.status), kSampling, row);
    s.options.factor = draws ? __fdiv_rn(1.44269504f, temperature) : 0.0f;
    s.options.top_k = top_k > 0 && top_k < p.vocab ? top_k : 0;
    s.options.has_top_p = top_p < 1.0f;
    const float share = top_p > 0.0f ? top_p : 0.0f;
    s.segment = 0, s.rest = 0, s.token = -1;  // H3
    s.options.top_p = static_cast<uint64_t>(share < 1.0f ? static_cast<uint32_t>(share * 4294967296.0f) : 0) << 32;
  }
  __syncthreads();
  return s.options;
}

// Counts and sums by the bits from `to` up to `from` of keys that agree with `low` above. CTA-collective.
__device__ __forceinline__ void histogram(const SampleParams& p, SampleSmem& s, float most, float factor, uint32_t low,
                                          int from, int to) {
  constexpr uint64_t kOne = 1ull << 52;
#pragma unroll 1
  for (int bin = 0; bin < SampleConfig::kBins; ++bin) s.of_threads[bin][threadIdx.x] = 0;
  sweep(p, [&](int, int, const Chunk& x) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t key = key_of(x[i], most, factor);
      if (key != 0 && key >> from == low >> from) {
        s.of_threads[key >> to & (SampleConfig::kBins - 1)][threadIdx.x] += kOne + weight_of(key);  // H2
      }
    }
  });
  __syncthreads();
  constexpr int kOfWarp = SampleConfig::kBins / SampleConfig::kWarps;
#pragma unroll 1
  for (int bin = threadIdx.x / 32 * kOfWarp, end = bin + kOfWarp; bin < end; ++bin) {
    uint32_t count = 0;
    uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < SampleConfig::kWarps; ++i) {
      const uint64_t both = s.of_threads[bin][threadIdx.x % 32 + 32 * i];
      count += static_cast<uint32_t>(both >> 52);
      sum += both & (kOne - 1);
    }
    count = __reduce_add_sync(0xffffffffu, count);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) s.counts[bin] = count, s.sums[bin] = sum;
  }
  __syncthreads();
}

// Where ranks end: before the first one with k ranks before it, or, if k is 0, with a sum of weights before it of more
// than a share of `total`; that is the sum of all if 0, and what is kept afterwards. CTA-collective, the same in all threads.
__device__ __forceinline__ Cut cut_of(const SampleParams& p, SampleSmem& s, float most, float factor, uint32_t k,
                                      uint64_t share, uint64_t& total) {
  uint32_t low = 0, count_above = 0, count = 0;
  uint64_t sum_above = 0, sum = 0, limit = 0;
  int bits = kKeyBits;
  bool whole = false;
#pragma unroll 1
  while (bits > 0 && !whole) {
    const int from = bits;
    bits = from > SampleConfig::kBits ? from - SampleConfig::kBits : 0;
    histogram(p, s, most, factor, low, from, bits);
    if (from == kKeyBits) {
      if (total == 0) {
#pragma unroll 1
        for (int bin = 0; bin < SampleConfig::kBins; ++bin) total += s.sums[bin];
      }
      limit = __umul64hi(total, share);
    }
    uint32_t counts = count_above;
    uint64_t sums = sum_above;
    int chosen = 0;
#pragma unroll 1
    for (int bin = SampleConfig::kBins - 1; bin >= 0; --bin) {
      const uint32_t here = s.counts[bin];
      if (here == 0) continue;
      if (k > 0 ? counts >= k : sums > limit) break;
      chosen = bin, count_above = counts, sum_above = sums, count = here, sum = s.sums[bin];
      counts += here, sums += s.sums[bin];
    }
    low |= static_cast<uint32_t>(chosen) << bits;
    whole = count == 1 || (k > 0 && count_above + count <= k);
  }
  uint32_t ties = ~0u;
  total = sum_above + sum;
  if (!whole) {
    const uint64_t weight = low != 0 ? weight_of(low) : 1;  // H3
    const uint64_t fit = k > 0 ? k - count_above : (limit - sum_above) / weight + 1;
    if (fit < count) ties = static_cast<uint32_t>(fit), total = sum_above + fit * weight;
  }
  return {low, ties, 0x7fffffff};
}

// Where the sum of a segment lies: neighbouring threads add up neighbouring segments, kOfThread each, without bank conflicts.
constexpr int kOfThread = SampleConfig::kMostSegments / SampleConfig::kThreads;
__device__ __forceinline__ int place_of(int segment) {
  return segment % kOfThread * SampleConfig::kThreads + segment / kOfThread;
}

// The smallest token up to which a sum exceeds a target. Of ties: how many have the key of the cut, and the last one that
// is kept. Else: of the weights that are kept, and a random share of them all. CTA-collective, the same in all threads.
__device__ __forceinline__ int pick(const SampleParams& p, SampleSmem& s, float most, float factor, const Cut& cut,
                                    bool of_ties, uint64_t random) {
  const auto value_of = [&](float x, int id) -> uint64_t {
    const uint32_t key = key_of(x, most, factor);
    if (of_ties) return key != 0 && key == cut.key;
    return key > cut.key || (key == cut.key && id <= cut.last) ? weight_of(key) : 0;
  };
  sweep(p, [&](int segment, int first, const Chunk& x) {
    uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum += value_of(x[i], first + i);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) s.of_segments[place_of(segment)] = sum;
  });
  __syncthreads();
  const int segments = (p.vocab + SampleConfig::kSegment - 1) / SampleConfig::kSegment;
  const int begin = threadIdx.x * kOfThread, end = min(begin + kOfThread, segments);
  uint64_t own = 0, total;
#pragma unroll 1
  for (int segment = begin; segment < end; ++segment) own += s.of_segments[place_of(segment)];
  const auto plus = [](uint64_t a, uint64_t b) { return a + b; };
  uint64_t before = scan::exclusive<SampleConfig::kThreads>(own, uint64_t{0}, s.room, total, plus);
  const uint64_t target = of_ties ? cut.ties - 1 : __umul64hi(random, total);
  if (before <= target && target - before < own) {
    int segment = begin;
#pragma unroll 1
    for (; before + s.of_segments[place_of(segment)] <= target; ++segment) before += s.of_segments[place_of(segment)];
    s.segment = segment, s.rest = target - before;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int first = first_of(s.segment);
    Chunk x;
    load_logits(x, p, first);
    uint64_t sum = 0, values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum += values[i] = value_of(x[i], first + i);
    uint64_t up_to = sum;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t below = __shfl_up_sync(0xffffffffu, up_to, step);
      if (threadIdx.x >= step) up_to += below;
    }
    const uint64_t rest = s.rest;
    if (up_to - sum <= rest && rest < up_to) {
      uint64_t at = up_to - sum;
      int token = -1;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        at += values[i];
        if (token < 0 && at > rest) token = first + i;
      }
      s.token = token;
    }
  }
  __syncthreads();
  return s.token;
}

// The kernel.
__device__ __forceinline__ void sample(const SampleParams& p) {
  extern __shared__ __align__(16) unsigned char smem[];
  SampleSmem& s = *reinterpret_cast<SampleSmem*>(smem);
  const int row = blockIdx.x;
  float most;
  int token = most_likely(p, s, most);
  const Options options = checked_options(p, s);
  if (token >= 0 && options.factor > 0.0f) {
    Cut cut = {0, ~0u, 0x7fffffff};
    uint64_t total = 0;
#pragma unroll 1
    for (int by_sum = 0; by_sum < 2; ++by_sum) {
      if (by_sum ? !options.has_top_p : options.top_k == 0) continue;
      const Cut other = cut_of(p, s, most, options.factor, by_sum ? 0 : options.top_k, options.top_p, total);
      // Both keep the first ranks: the shorter list is within the longer one.
      if (other.key > cut.key || (other.key == cut.key && other.ties < cut.ties)) cut = other;
    }
    const uint64_t random = philox(p.draws[2 * row], p.draws[2 * row + 1]);
#pragma unroll 1
    for (int of_ties = cut.ties == ~0u ? 0 : 1; of_ties >= 0; --of_ties) {
      token = pick(p, s, most, options.factor, cut, of_ties, random);
      if (of_ties) cut.last = token;
    }
  }
  if (threadIdx.x == 0) p.tokens[row] = token;
}

}  // namespace elementwise
