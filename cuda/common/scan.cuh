// Scans over the threads of a block.
#pragma once

#include <cstdint>

namespace scan {

// Of the values of all threads before this one, in order, the combination; `identity` for thread 0. total: that of all
// threads. Combines by op, which is associative. CTA-collective; `room` is shared, may be used again behind a barrier.
template <int kThreads, class T, class Op>
__device__ __forceinline__ T exclusive(T value, T identity, T (&room)[kThreads / 32], T& total, Op op) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T up_to = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T before = __shfl_up_sync(0xffffffffu, up_to, step);
    if (lane >= step) up_to = op(before, up_to);
  }
  if (lane == 31) room[warp] = up_to;
  __syncthreads();
  T before = __shfl_up_sync(0xffffffffu, up_to, 1);
  if (lane == 0) before = identity;
  T of_warps = identity;
  total = identity;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w == warp) of_warps = total;
    total = op(total, room[w]);
  }
  return op(of_warps, before);
}

}  // namespace scan
