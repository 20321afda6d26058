// As common/global.cuh, for other sizes.
#pragma once

#include <cstdint>

namespace ptx {

// ld.global.cg of 8 bytes, past L1.
__device__ __forceinline__ uint2 ld_global_cg_8(uint64_t global) {
  uint2 d;
  asm volatile("ld.global.cg.v2.b32 {%0, %1}, [%2];" : "=r"(d.x), "=r"(d.y) : "l"(global) : "memory");
  return d;
}

}  // namespace ptx
