// From Q and K to weights: each warp's part of the product, the sum of the parts, and the softmax of whole rows.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#include "attention/mla_keys.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/ptx_vector.cuh"
#include "common/softmax_state.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace mla {

// Byte offset of score (row, token) of a part of S. A row is 8 chunks of 16 bytes; chunk c lives at c ^ turn(row): the
// pairs of neighbouring chunks of four rows differ for turns that differ in their upper two bits, which is how a warp
// writes, and every other chunk of two rows for turns that differ in the lowest, which is how it reads.
template <class C>
__device__ __forceinline__ uint32_t score_at(uint32_t row, uint32_t token) {
  const uint32_t turn = (row & 1) * 3 | (row & 2) * 2;
  return row * (4 * C::kTileK) + (token / 4 ^ turn) * swizzle::kChunkBytes + token % 4 * 4;
}

// The products of a warp's rows, tokens and depth.
template <class C, int kRowBytes, int kPairs>
__device__ __forceinline__ void multiply(typename C::Scores& s, uint32_t sQ, uint32_t sK) {
  unroll<0, kPairs>([&](auto i) {
    // As many lines as the pairs fill, in the order in which an address serves all of them.
    constexpr int kLines = kPairs > 4 ? kPairs / 4 : 1;
    constexpr int d = i / kLines + i % kLines * 4;
    uint32_t rQ[C::kScoreBlocks][4];
    unroll<0, C::kScoreBlocks>([&](auto b) {
      ptx::ldmatrix_x4<swizzle::immediate<kRowBytes>(d, b)>(rQ[b], swizzle::turn<kRowBytes>(sQ, d));
    });
    unroll<0, C::kScoreCols / 2>([&](auto j) {
      uint32_t rK[4];
      ptx::ldmatrix_x4<swizzle::immediate<kRowBytes>(d, j)>(rK, swizzle::turn<kRowBytes>(sK, d));
#pragma unroll
      for (int b = 0; b < C::kScoreBlocks; ++b)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if (i == 0 && kRowBytes == C::kLatentBytes) {
            fragment::mma_from_zero<C::kElement>(s[b][2 * j + n], rQ[b], rK[2 * n], rK[2 * n + 1]);
          } else {
            fragment::mma<C::kElement>(s[b][2 * j + n], rQ[b], rK[2 * n], rK[2 * n + 1]);
          }
        }
    });
  });
}

// Half of the warps add the parts of the others to theirs. room: this lane's first 16 bytes of a place for the part.
// CTA-collective.
template <class C>
__device__ __forceinline__ void hand_over(typename C::Scores& s, float4* room, bool gives) {
  constexpr int kCount = C::kScoreBlocks * C::kScoreCols;
  float(*flat)[4] = &s[0][0];
  if (gives) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) room[32 * i] = make_float4(flat[i][0], flat[i][1], flat[i][2], flat[i][3]);
  }
  __syncthreads();
  if (gives) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float4 other = room[32 * i];
    flat[i][0] += other.x, flat[i][1] += other.y, flat[i][2] += other.z, flat[i][3] += other.w;
  }
  __syncwarp();
}

// A warp's part of S, left in shared memory. CTA-collective.
template <class C>
__device__ __forceinline__ void score(typename C::Smem& smem, int stage) {
  using swizzle::offset;
  constexpr int kLatentPairs = C::kLatentDim / 16 / C::kDepthWarps, kRopePairs = C::kRopeDim / 16 / C::kDepthWarps;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t depth = warp % C::kDepthWarps, token = warp / C::kDepthWarps % C::kTokenWarps * (8 * C::kScoreCols);
  const uint32_t row = warp / (C::kDepthWarps * C::kTokenWarps) * (16 * C::kScoreBlocks);
  const uint32_t q_row = row + fragment::a_row(lane), q_chunk = fragment::a_chunk(lane);
  const uint32_t k_row = token + fragment::b_nk_row(lane), k_chunk = fragment::b_nk_chunk(lane);
  const auto& queries = smem.work.queries;
  const auto& keys = smem.work.keys[stage];
  typename C::Scores s;
  const uint32_t at_latent = depth * (kLatentPairs * 32), at_rope = depth * (kRopePairs * 32);
  multiply<C, C::kLatentBytes, kLatentPairs>(
      s, ptx::shared_address(queries.latent) + offset<C::kLatentBytes>(q_row, q_chunk) + at_latent,
      ptx::shared_address(keys.latent) + offset<C::kLatentBytes>(k_row, k_chunk) + at_latent);
  // Within a line, the depth turns the chunk.
  multiply<C, C::kRopeBytes, kRopePairs>(
      s, ptx::shared_address(queries.rope) + (offset<C::kRopeBytes>(q_row, q_chunk) ^ at_rope),
      ptx::shared_address(keys.rope) + (offset<C::kRopeBytes>(k_row, k_chunk) ^ at_rope));
  float* part = smem.work.scores[depth % C::kParts];
  if constexpr (C::kDepthWarps > C::kParts) {
    const bool gives = depth >= C::kParts;
    hand_over<C>(s, reinterpret_cast<float4*>(part + row * C::kTileK) + lane, gives);
    if (gives) return;
  }
  const uint32_t to = ptx::shared_address(part);
#pragma unroll
  for (int b = 0; b < C::kScoreBlocks; ++b)
#pragma unroll
    for (int j = 0; j < C::kScoreCols; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t at = score_at<C>(row + 16 * b + fragment::acc_row(lane, 2 * h),
                                        token + 8 * j + fragment::acc_col(lane, 0));
        ptx::st_shared_v2(to + at, s[b][j][2 * h], s[b][j][2 * h + 1]);
      }
}

// The online softmax of the row that a thread shares with its neighbours, by the rule of softmax_state.cuh.
template <class C>
struct RowState {
  float neg_m;  // -m; the same in all lanes of the row
  float l;      // this lane's part of Σ p
  int last;     // the last token that the row sees

  __device__ __forceinline__ void start(const PrefillParams& p, const Sequence& seq, const Item& item) {
    const int token = (item.first_row + static_cast<int>(threadIdx.x) / C::kRowLanes) / p.num_heads;
    neg_m = FLT_MAX;
    l = 0.0f;
    last = p.causal ? token + seq.k_len - seq.q_len : INT_MAX;
  }

  // Turns scores into P, in place of the step's rotary keys, and leaves the factor of the row's output so far. Whether it
  // is not 1.
  __device__ __forceinline__ bool weigh(typename C::Smem& smem, float scale, int stage, int key0, bool edge) {
    const uint32_t tid = ptx::reread_tid(), row = tid / C::kRowLanes;
    const uint32_t first = tid % C::kRowLanes * C::kLaneTokens;
    constexpr int kRun = C::kLaneTokens < 4 ? C::kLaneTokens : 4;  // tokens that are read at once
    float s[C::kLaneTokens] = {};
#pragma unroll
    for (int i = 0; i < C::kLaneTokens; i += kRun) {
      const char* from = reinterpret_cast<const char*>(smem.work.scores[0]) + score_at<C>(row, first + i);
#pragma unroll
      for (int d = 0; d < C::kParts; ++d) add<kRun>(s + i, from + d * sizeof(smem.work.scores[0]));
    }
    if (edge) {
#pragma unroll
      for (int i = 0; i < C::kLaneTokens; ++i) {
        const int token = first + i;
        if (!smem.there[stage][token] || key0 + token > last) s[i] = -INFINITY;
      }
    }
    float top = s[0];
#pragma unroll
    for (int i = 1; i < C::kLaneTokens; ++i) top = fmaxf(top, s[i]);
#pragma unroll
    for (int mask = 1; mask < C::kRowLanes; mask *= 2) top = fmaxf(top, ptx::shfl_bfly(top, mask));
    const bool outgrown = fmaf(top, scale, neg_m) > SoftmaxState<1>::kSlack;
    const float neg_m_new = outgrown ? top * -scale : neg_m;
    const float factor = ptx::ex2_approx_ftz(neg_m_new - neg_m);  // exactly 1 where m stays
    neg_m = neg_m_new;
    l *= factor;
    if (tid % C::kRowLanes == 0) smem.factor[row] = factor;
    uint32_t rP[C::kLaneTokens / 2];
#pragma unroll
    for (int i = 0; i < C::kLaneTokens; i += 2) {
      const float low = ptx::ex2_approx_ftz(fmaf(s[i], scale, neg_m));
      const float high = ptx::ex2_approx_ftz(fmaf(s[i + 1], scale, neg_m));
      l += low + high;
      rP[i / 2] = fragment::pack<C::kElement>(low, high);
    }
    unsigned char* to = smem.work.keys[stage].rope + swizzle::offset<C::kWeightBytes>(row, first / 8) + first % 8 * 2;
    if constexpr (C::kLaneTokens == 8) {
      *reinterpret_cast<uint4*>(to) = make_uint4(rP[0], rP[1], rP[2], rP[3]);
    } else {
      *reinterpret_cast<uint32_t*>(to) = rP[0];
    }
    return outgrown;
  }

  // Leaves m and l, complete, for all threads.
  __device__ __forceinline__ void publish(typename C::Smem& smem) {
#pragma unroll
    for (int mask = 1; mask < C::kRowLanes; mask *= 2) l += ptx::shfl_bfly(l, mask);
    if (threadIdx.x % C::kRowLanes != 0) return;
    smem.m[threadIdx.x / C::kRowLanes] = -neg_m;
    smem.l[threadIdx.x / C::kRowLanes] = l;
  }

 private:
  template <int kRun>
  static __device__ __forceinline__ void add(float* s, const char* from) {
    if constexpr (kRun == 4) {
      const float4 part = *reinterpret_cast<const float4*>(from);
      s[0] += part.x, s[1] += part.y, s[2] += part.z, s[3] += part.w;
    } else {
      const float2 part = *reinterpret_cast<const float2*>(from);
      s[0] += part.x, s[1] += part.y;
    }
  }
};

}  // namespace mla
