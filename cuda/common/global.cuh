// Thin names for PTX loads from global memory by address: as common/ptx.cuh, for those who compute addresses themselves.
#pragma once

#include <cstdint>

namespace ptx {

// ld.global.cg of 16 bytes at global + kAt, past L1.
template <int kAt>
__device__ __forceinline__ uint4 ld_global_cg_16(uint64_t global) {
  uint4 d;
  asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w) : "l"(global), "n"(kAt) : "memory");
  return d;
}

}  // namespace ptx
