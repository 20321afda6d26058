// From partial results to the output.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "attention/prefill_params.cuh"
#include "attention/prefill_sequence.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/softmax_state.cuh"

namespace decode {

// States of one row over different keys, added up: four columns of O. First all references m are considered, then the
// states added.
struct Sum {
  float m = -FLT_MAX, l = 0.0f;
  float4 o = {};

  __device__ __forceinline__ void consider(float of_part) { m = fmaxf(m, of_part); }

  __device__ __forceinline__ void add(float of_part, float l_part, float4 o_part) {
    const float factor = ptx::ex2_approx_ftz(of_part - m);
    l = fmaf(factor, l_part, l);
    o.x = fmaf(factor, o_part.x, o.x);
    o.y = fmaf(factor, o_part.y, o.y);
    o.z = fmaf(factor, o_part.z, o.z);
    o.w = fmaf(factor, o_part.w, o.w);
  }
};

// A row's sum, scaled and with its sink, to the output: the columns of one quad; and its log-sum-exp.
template <fragment::Element kElement>
__device__ __forceinline__ void write(const PrefillParams& p, Sum sum, int64_t token, int head, int quad) {
  float factor = 1.0f;
  if (p.sinks != nullptr) {
    const float sink = p.sinks[head] * prefill::kLog2E, m = fmaxf(sum.m, sink);
    factor = ptx::ex2_approx_ftz(sum.m - m);
    sum.l = fmaf(sum.l, factor, ptx::ex2_approx_ftz(sink - m));
    sum.m = m;
  }
  const bool empty = sum.l == 0.0f;
  const float inverse = empty ? 0.0f : ptx::rcp_approx_ftz(sum.l) * factor;
  char* gO = static_cast<char*>(p.out) + 2 * (token * p.out_stride_token + head * p.out_stride_head + 4 * quad);
  *reinterpret_cast<uint2*>(gO) = make_uint2(fragment::pack<kElement>(sum.o.x * inverse, sum.o.y * inverse),
                                             fragment::pack<kElement>(sum.o.z * inverse, sum.o.w * inverse));
  if (p.lse != nullptr && quad == 0) {
    p.lse[head * p.lse_stride_head + token] =
        empty ? -INFINITY : (ptx::lg2_approx_ftz(sum.l) + sum.m) * SoftmaxState<1>::kLn2;
  }
}

}  // namespace decode
