// States of segments, added up from the first key to the last.
#pragma once

#include <cstdint>

#include "attention/decode_result.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"

namespace decode {

// Both states of one row, `next` of keys behind those of `sum`. That of no keys, or of none that the row sees, changes
// nothing but the sign of a zero.
__device__ __forceinline__ Sum folded(const Sum& sum, const Sum& next) {
  Sum both;
  both.m = fmaxf(sum.m, next.m);
  const float before = ptx::ex2_approx_ftz(sum.m - both.m), behind = ptx::ex2_approx_ftz(next.m - both.m);
  both.l = fmaf(behind, next.l, before * sum.l);
  both.o.x = fmaf(behind, next.o.x, before * sum.o.x);
  both.o.y = fmaf(behind, next.o.y, before * sum.o.y);
  both.o.z = fmaf(behind, next.o.z, before * sum.o.z);
  both.o.w = fmaf(behind, next.o.w, before * sum.o.w);
  return both;
}

// A sum to the output, its zeros without a sign.
template <fragment::Element kElement>
__device__ __forceinline__ void write_unsigned_zeros(const PrefillParams& p, Sum sum, int64_t token, int head, int quad) {
  sum.o = {sum.o.x + 0.0f, sum.o.y + 0.0f, sum.o.z + 0.0f, sum.o.w + 0.0f};
  write<kElement>(p, sum, token, head, quad);
}

}  // namespace decode
