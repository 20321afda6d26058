// moe_route: which experts a token goes to, and how much each of them weighs
//
// Shapes   logits [tokens, experts] f32, f16 or bf16; ids i32, weights f32 [tokens, top_k + shared], best first
// Grid     (ceil(tokens / 4))   Block 128 = 4 warps, each a token
// Lanes    lane l has experts l, l + 32, …, in shared memory: neighbours read neighbours
// Choice   by the logit, or, with a bias, by score + bias; equal ones to the lower id. A float is turned into a number of
//          the same order, so that a maximum over the warp is one instruction
// Hazards  H1 a logit of NaN counts as -inf, of +inf as the largest finite: reported, and ids remain distinct and valid
//          H2 nothing above -inf: weights are 0, never NaN
// Numerics f32 throughout; sums in an order of their own, so that a token's bits depend on its logits alone
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/status.cuh"
#include "moe/experts.cuh"
#include "moe/route_params.cuh"
#include "moe/warp.cuh"

namespace moe {

struct RouteConfig {
  static constexpr int kThreads = 128, kTileQ = kThreads / 32, kTileK = 512, kStages = 1;
  static constexpr uint32_t kSmemBytes = kTileQ * kTileK * 8;
};

// Scores that add up to less are none.
constexpr float kLeastSum = 1e-30f;

// A token's experts.
struct Candidates {
  float score[RouteConfig::kTileK];   // logits, then what weights are made of
  uint32_t key[RouteConfig::kTileK];  // orders the choice; 0: not to be chosen (any more)
};

// f(id) for each of the lane's experts.
template <class F>
__device__ __forceinline__ void each(const RouteParams& p, int lane, F&& f) {
#pragma unroll 2
  for (int id = lane; id < p.experts; id += 32) f(id);
}

// H1. Whether the number was odd.
__device__ __forceinline__ bool tame(float& x) {
  if (x <= FLT_MAX) return false;
  x = x > FLT_MAX ? FLT_MAX : -INFINITY;
  return true;
}

__device__ __forceinline__ float sigmoid(float x) { return ptx::rcp_approx_ftz(1.0f + expf(-x)); }

__device__ __forceinline__ float load(const RouteParams& p, const void* from, int64_t at) {
  float low, high;
  switch (static_cast<LogitsType>(p.logits_type)) {
    case LogitsType::kF16:
      fragment::unpack<fragment::Element::kF16>(static_cast<const uint16_t*>(from)[at], low, high);
      return low;
    case LogitsType::kBf16:
      fragment::unpack<fragment::Element::kBf16>(static_cast<const uint16_t*>(from)[at], low, high);
      return low;
    default: return static_cast<const float*>(from)[at];
  }
}

// Scores and keys of all experts. Whether something was odd.
__device__ __forceinline__ bool score(const RouteParams& p, Candidates& c, int64_t token, int lane) {
  bool odd = false;
  uint32_t most = 0;
  each(p, lane, [&](int id) {
    float logit = load(p, p.logits, token * p.logits_stride + id);
    odd |= tame(logit);
    c.score[id] = logit, c.key[id] = order_key(logit);
    most = max(most, order_key(logit));
  });
  const float largest = from_order_key(warp_max(most));
  const bool none = largest == -INFINITY;  // H2
  if (p.scoring == static_cast<int>(Scoring::kSoftmax)) {
    float sum = 0.0f;
    each(p, lane, [&](int id) { sum += c.score[id] = none ? 0.0f : expf(c.score[id] - largest); });
    const float share = none ? 0.0f : 1.0f / warp_sum(sum);
    each(p, lane, [&](int id) { c.score[id] *= share; });
  } else if (p.scoring == static_cast<int>(Scoring::kSigmoid)) {
    each(p, lane, [&](int id) { c.score[id] = sigmoid(c.score[id]); });
  }
  if (p.bias != nullptr) {
    each(p, lane, [&](int id) {
      float choice = c.score[id] + p.bias[id];
      odd |= tame(choice);
      c.key[id] = order_key(choice);
    });
  }
  return odd || none;
}

// Experts outside the best groups can no longer be chosen.
__device__ __forceinline__ void keep_best_groups(const RouteParams& p, Candidates& c, int lane) {
  const int size = p.experts / p.groups;
  __syncwarp();       // lanes read each other's keys, then only their own
  uint32_t rank = 0;  // of group `lane`
  for (int group = 0; group < p.groups; ++group) {
    uint32_t first = 0, second = 0;
    for (int id = group * size + lane; id < (group + 1) * size; id += 32) {
      const uint32_t key = c.key[id];
      second = max(second, min(first, key));
      first = max(first, key);
    }
    uint32_t of_group = warp_max(first);
    if (p.group_by_two) {  // the first lane that has the best goes on with its second
      const bool gives_way = lane == __ffs(ptx::ballot(first == of_group)) - 1;
      const uint32_t next = warp_max(gives_way ? second : first);
      of_group = order_key(from_order_key(of_group) + from_order_key(next));
    }
    if (lane == group) rank = of_group;
  }
  uint32_t kept = 0;
  for (int n = 0; n < p.top_groups; ++n) {
    const int best = __ffs(ptx::ballot(rank == warp_max(rank))) - 1;
    kept |= 1u << best;
    if (lane == best) rank = 0;
  }
  __syncwarp();
  each(p, lane, [&](int id) {
    if (!(kept >> id / size & 1)) c.key[id] = 0;
  });
}

// Lane s gets the s-th expert and its score, s < top_k.
__device__ __forceinline__ void choose(const RouteParams& p, Candidates& c, int lane, int& chosen, float& value) {
  uint32_t best = 0;
  int best_id = 0;  // of this lane
  const auto look = [&] {
    best = 0;
    each(p, lane, [&](int id) {
      if (c.key[id] > best) best = c.key[id], best_id = id;
    });
  };
  look();
  for (int slot = 0; slot < p.top_k; ++slot) {
    const uint32_t most = warp_max(best);
    const int id = warp_min(best == most ? best_id : RouteConfig::kTileK);
    float its = 0.0f;
    if (lane == id % 32) {
      its = c.score[id], c.key[id] = 0;
      look();
    }
    its = __shfl_sync(0xffffffffu, its, id % 32);
    if (lane == slot) chosen = id, value = its;
  }
}

__device__ __forceinline__ void route(const RouteParams& p) {
  extern __shared__ __align__(16) unsigned char smem[];
  const int lane = threadIdx.x % 32, warp = ptx::shfl_first(threadIdx.x / 32);
  const int64_t token = static_cast<int64_t>(blockIdx.x) * RouteConfig::kTileQ + warp;
  if (token >= p.tokens) return;
  Candidates& c = reinterpret_cast<Candidates*>(smem)[warp];
  bool odd = score(p, c, token, lane);
  if (p.top_groups < p.groups) keep_best_groups(p, c, lane);
  int id = 0;
  float weight = 0.0f;
  choose(p, c, lane, id, weight);

  const bool over_chosen = p.scoring == static_cast<int>(Scoring::kTopKSoftmax);
  if (over_chosen) {
    const float largest = __shfl_sync(0xffffffffu, weight, 0);
    weight = lane < p.top_k && largest > -INFINITY ? expf(weight - largest) : 0.0f;  // H2
  }
  if (over_chosen || p.renormalize) {
    const float sum = warp_sum(weight);
    weight = sum > kLeastSum ? weight / sum : 0.0f;  // H2
  }
  weight *= p.scale;

  if (lane >= p.top_k) {
    id = p.experts + lane - p.top_k, weight = 1.0f;
    if (p.shared_gate != nullptr) {
      float gate = load(p, p.shared_gate, token * p.shared_gate_stride);
      odd |= tame(gate);
      weight = sigmoid(gate);
    }
  }
  const int slots = p.top_k + p.shared;
  if (lane < slots) p.ids[token * slots + lane] = id, p.weights[token * slots + lane] = weight;
  if (ptx::ballot(odd) != 0 && lane == 0) report(p.status, kLogit, token);
}

}  // namespace moe
