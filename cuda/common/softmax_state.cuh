// The online softmax of a warp's rows: running reference m_i and sum l_i  [FlashAttention-2, Alg. 1].
//
// Everything is in base 2: p = 2^(s·scale_log2 - m). m_i is not always the maximum so far: it is only replaced when a
// tile's maximum exceeds it by more than kSlack in the exponent, since the rescaling of the output that this costs is
// by far the most expensive part of the update. Until then p may grow to 2^kSlack, harmless in f16 and in f32. Each
// row decides for itself, so its bits do not depend on the rows beside it; warps vote only on whether to skip the
// work. l_i and the output refer to the stored m_i, hence LSE = m_i + log2(l_i) stays exact.
#pragma once

#include <cfloat>
#include <cmath>

#include "common/fragment.cuh"
#include "common/ptx.cuh"

// State of kBlocks row blocks of 16; lane l holds rows l/4 + 8h of block b at index 2b + h.
template <int kBlocks>
struct SoftmaxState {
  static constexpr int kRows = 2 * kBlocks;
  static constexpr float kSlack = 8.0f;
  static constexpr float kLn2 = 0.693147180559945309f;

  float neg_m[kRows];  // -m, as the fused multiply-adds take it; the same in the four lanes of a row
  float l[kRows];      // this lane's part of Σ p

  // The lowest finite reference instead of -∞: m - m' is then never NaN, and a row that sees only masked scores (-∞)
  // keeps p = 0 without a test.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      neg_m[r] = FLT_MAX;
      l[r] = 0.0f;
    }
  }

  // Takes in the scores of one tile, s[b][j][i] = element i of 16×8 block j of row block b: raises m where it must
  // and rescales l and the output o, laid out alike, to match.
  template <int kCols, int kOutCols>
  __device__ __forceinline__ void raise(const float (&s)[kBlocks][kCols][4], float scale_log2,
                                        float (&o)[kBlocks][kOutCols][4]) {
    float top[kRows];
    bool outgrown = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      top[r] = fmaxf(s[r / 2][0][r % 2 * 2], s[r / 2][0][r % 2 * 2 + 1]);
#pragma unroll
      for (int j = 1; j < kCols; ++j) {
        top[r] = fmaxf(top[r], fmaxf(s[r / 2][j][r % 2 * 2], s[r / 2][j][r % 2 * 2 + 1]));
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) top[r] = fragment::quad_max(top[r]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) outgrown |= fmaf(top[r], scale_log2, neg_m[r]) > kSlack;
    if (!__any_sync(0xffffffffu, outgrown)) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float neg_m_new = fmaf(top[r], scale_log2, neg_m[r]) > kSlack ? top[r] * -scale_log2 : neg_m[r];
      const float factor = ptx::ex2_approx_ftz(neg_m_new - neg_m[r]);  // exactly 1 where m stays
      neg_m[r] = neg_m_new;
      l[r] *= factor;
#pragma unroll
      for (int j = 0; j < kOutCols; ++j) {
        o[r / 2][j][r % 2 * 2] *= factor;
        o[r / 2][j][r % 2 * 2 + 1] *= factor;
      }
    }
  }

  // p of one score of row r, added to the row's sum before any rounding to the operand type.
  __device__ __forceinline__ float weigh(float s, float scale_log2, int r) {
    const float p = ptx::ex2_approx_ftz(fmaf(s, scale_log2, neg_m[r]));
    l[r] += p;
    return p;
  }

  // Takes in one more logit, in base 2, that has no value to weigh. `adds` in one of a row's four lanes. Returns by what
  // to multiply the output so far, which refers to the old m.
  __device__ __forceinline__ float sink(float logit, bool adds, int r) {
    const float m = -neg_m[r], m_new = fmaxf(m, logit);
    const float factor = ptx::ex2_approx_ftz(m - m_new);
    l[r] = l[r] * factor + (adds ? ptx::ex2_approx_ftz(logit - m_new) : 0.0f);
    neg_m[r] = -m_new;
    return factor;
  }

  // Completes l and returns 1/l, or 0 for a row without weight.
  __device__ __forceinline__ float finish(int r) {
    l[r] = fragment::quad_sum(l[r]);
    return l[r] == 0.0f ? 0.0f : ptx::rcp_approx_ftz(l[r]);
  }

  // Natural logarithm of Σ exp(scale·s), after `finish`; -∞ for a row without weight.
  __device__ __forceinline__ float lse(int r) const {
    return l[r] == 0.0f ? -INFINITY : (ptx::lg2_approx_ftz(l[r]) - neg_m[r]) * kLn2;
  }
};
