// From Q and K to scores: the product, what options make of it, and masks.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/prefill_config.cuh"
#include "attention/prefill_params.cuh"
#include "attention/prefill_sequence.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"

namespace prefill {

// The warp's rows of Q, 16 of their columns, as step i of `score` wants them.
template <class C, int i>
__device__ __forceinline__ void load_queries(uint32_t (&rQ)[C::kBlocks][4], uint32_t sQ) {
  constexpr int d = swizzle::pair<C::kKeyBytes>(i);
  unroll<0, C::kBlocks>([&](auto b) {
    ptx::ldmatrix_x4<swizzle::immediate<C::kKeyBytes>(d, b)>(rQ[b], swizzle::turn<C::kKeyBytes>(sQ, d));
  });
}

// S = Q·Kᵀ for the warp's rows and the tile's keys. sQ, sK: this lane's ldmatrix addresses. kept: Q, if kept.
template <class C>
__device__ __forceinline__ void score(typename C::Scores& s, const typename C::Queries& kept, uint32_t sQ,
                                      uint32_t sK) {
  unroll<0, C::kHeadDim / 16>([&](auto i) {
    constexpr int d = swizzle::pair<C::kKeyBytes>(i);
    uint32_t rQ[C::kBlocks][4];
    if constexpr (C::kKeepQ) {
#pragma unroll
      for (int r = 0; r < C::kBlocks * 4; ++r) rQ[r / 4][r % 4] = kept[i][r / 4][r % 4];
    } else {
      load_queries<C, i>(rQ, sQ);
    }
    unroll<0, C::kKeyCols / 2>([&](auto j) {
      uint32_t rK[4];
      ptx::ldmatrix_x4<swizzle::immediate<C::kKeyBytes>(d, j)>(rK, swizzle::turn<C::kKeyBytes>(sK, d));
#pragma unroll
      for (int b = 0; b < C::kBlocks; ++b) {
        if constexpr (i == 0) {
          fragment::mma_from_zero<C::kElement>(s[b][2 * j], rQ[b], rK[0], rK[1]);
          fragment::mma_from_zero<C::kElement>(s[b][2 * j + 1], rQ[b], rK[2], rK[3]);
        } else {
          fragment::mma<C::kElement>(s[b][2 * j], rQ[b], rK[0], rK[1]);
          fragment::mma<C::kElement>(s[b][2 * j + 1], rQ[b], rK[2], rK[3]);
        }
      }
    });
  });
}

// Scores of keys past a row's last become -∞. last: the last key that the lane's first row sees, relative to the
// lane's first column of the tile; row_step: how many keys further each eight rows down see.
template <class C>
__device__ __forceinline__ void mask_behind(typename C::Scores& s, int last, int row_step) {
#pragma unroll
  for (int b = 0; b < C::kBlocks; ++b)
#pragma unroll
    for (int j = 0; j < C::kKeyCols; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (8 * j + i % 2 > last + (2 * b + i / 2) * row_step) s[b][j][i] = -INFINITY;
}

// The lowest n bits, for any n.
__device__ __forceinline__ uint32_t lowest(int64_t n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << static_cast<int>(n)) - 1;
}

// `count`, at most 32, bits of a mask from bit `first` of `bytes` on; bytes without one of them are not read.
__device__ __forceinline__ uint32_t mask_bits(uint64_t bytes, int64_t first, int64_t count) {
  if (count <= 0) return 0;
  const int64_t end = first + (count < 32 ? count : 32);
  uint64_t bits = 0;
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    const int64_t at = (first >> 3) + i;
    if (at * 8 < end) bits |= static_cast<uint64_t>(ptx::ld_global_u8(bytes + at)) << 8 * i;
  }
  return static_cast<uint32_t>(bits >> (first & 7));
}

// Thread t writes down which keys of a tile row t of the CTA sees. Warp-collective; a barrier must follow.
template <class C>
__device__ __forceinline__ void see(const PrefillParams& p, typename C::Smem& smem, int tile) {
  const int tid = ptx::reread_tid();
  const int q_len = smem.bounds[1] - smem.bounds[0], k_len = smem.bounds[3] - smem.bounds[2];
  const int i = (gridDim.x - 1 - blockIdx.x) * C::kTileQ + tid;
  const bool exists = tid < C::kTileQ && i < q_len;
  const int64_t first_key = static_cast<int64_t>(tile) * C::kTileK;
  const int64_t at = static_cast<int64_t>(i) + k_len - q_len - first_key;  // the row's position in the tile
  const Reach r = reach<C>(p);
#pragma unroll
  for (int w = 0; w < C::kWords; ++w) {
    const int key = 32 * w + tid % 32;
    const uint32_t there = ptx::ballot(key < C::kTileK && smem.k_offsets[tile & 1][key] != C::CopyK::kAbsent);
    uint32_t seen = exists ? there & lowest(at + r.right + 1 - 32 * w) & ~lowest(at - r.left - 32 * w) : 0;
    if constexpr (C::kOptions) {
      if (p.mask_offsets != nullptr) {
        if (exists) {
          const int64_t row = static_cast<int64_t>(i) * k_len;
          seen &= mask_bits(smem.mask, row + first_key + 32 * w, k_len - first_key - 32 * w);
        }
        const uint32_t live = ptx::redux_or(seen);
        if (tid % 32 == 0) smem.live[tid / 32][w] = live;
      }
    }
    if (tid < C::kTileQ) smem.visible[w][tid] = seen;
  }
}

// Scores of keys that a row does not see, by what `see` wrote down, become -∞.
template <class C>
__device__ __forceinline__ void mask_unseen(typename C::Scores& s, const typename C::Smem& smem) {
  const uint32_t tid = ptx::reread_tid(), lane = tid % 32;
  const uint32_t first_row = tid / 32 * C::kWarpRows + fragment::acc_row(lane, 0);
#pragma unroll
  for (int r = 0; r < 2 * C::kBlocks; ++r)
#pragma unroll
    for (int w = 0; w < C::kWords; ++w) {
      const uint32_t seen = smem.visible[w][first_row + 8 * r] >> fragment::acc_col(lane, 0);
#pragma unroll
      for (int j = 4 * w; j < C::kKeyCols && j < 4 * w + 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          if (!(seen >> (8 * (j % 4) + i) & 1)) s[r / 2][j][r % 2 * 2 + i] = -INFINITY;
    }
}

// Values of keys that the mask hides from every row of the CTA become zeros, so that nothing they hold matters.
// CTA-collective, between the barrier behind which the tile's V is there and a barrier of its own.
template <class C>
__device__ __forceinline__ void clear_unseen(const typename C::Smem& smem, uint32_t wV) {
  uint32_t live[C::kWords] = {};
#pragma unroll
  for (int w = 0; w < C::kWords; ++w)
#pragma unroll
    for (int i = 0; i < C::kWarps; ++i) live[w] |= smem.live[i][w];
  C::CopyV::template keep<C::kTileK>(wV, live, ptx::reread_tid());
  __syncthreads();
}

// What soft-cap and ALiBi make of the scores of a tile. With ALiBi they come out in base 2.
template <class C>
__device__ __forceinline__ void reshape(const PrefillParams& p, const typename C::Smem& smem, typename C::Scores& s,
                                        int tile) {
  constexpr int kCount = C::kBlocks * C::kKeyCols * 4;
  float* flat = &s[0][0][0];
  if (p.softcap_scale > 0.0f) {
    if (p.exact_softcap) {
      const float scale = p.softcap_scale * (2 * kLog2E);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        flat[i] = fmaf(-2.0f, ptx::rcp_approx_ftz(ptx::ex2_approx_ftz(flat[i] * scale) + 1.0f), 1.0f);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) flat[i] = ptx::tanh_approx(flat[i] * p.softcap_scale);
    }
  }
  if (p.alibi_slopes != nullptr) {
    const uint32_t tid = ptx::reread_tid(), lane = tid % 32;
    const int q_len = smem.bounds[1] - smem.bounds[0], k_len = smem.bounds[3] - smem.bounds[2];
    const int row = (gridDim.x - 1 - blockIdx.x) * C::kTileQ + tid / 32 * C::kWarpRows + fragment::acc_row(lane, 0);
    const int ahead = tile * C::kTileK + fragment::acc_col(lane, 0) - (row + k_len - q_len);
    const float slope = -smem.slope_log2;
#pragma unroll
    for (int r = 0; r < 2 * C::kBlocks; ++r) {
      const float first = static_cast<float>(ahead - 8 * r);
#pragma unroll
      for (int j = 0; j < C::kKeyCols; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = s[r / 2][j][r % 2 * 2 + i];
          score = fmaf(score, p.scale_log2, fabsf(first + static_cast<float>(8 * j + i)) * slope);
        }
    }
  }
}

// What is left to multiply scores with, on the way to base 2.
template <class C>
__device__ __forceinline__ float scale_log2(const PrefillParams& p) {
  return C::kOptions && p.alibi_slopes != nullptr ? 1.0f : p.scale_log2;
}

}  // namespace prefill
