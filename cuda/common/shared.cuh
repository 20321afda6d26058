// Thin names for PTX loads from shared memory by address: as common/ptx.cuh, for those who compute addresses themselves.
#pragma once

#include <cstdint>

namespace ptx {

// ld.shared of 16, 8 and 2 bytes at shared + kAt.
template <int kAt>
__device__ __forceinline__ uint4 ld_shared_16(uint32_t shared) {
  uint4 d;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w) : "r"(shared), "n"(kAt) : "memory");
  return d;
}
template <int kAt>
__device__ __forceinline__ uint2 ld_shared_8(uint32_t shared) {
  uint2 d;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2 + %3];" : "=r"(d.x), "=r"(d.y) : "r"(shared), "n"(kAt) : "memory");
  return d;
}
template <int kAt>
__device__ __forceinline__ uint32_t ld_shared_2(uint32_t shared) {
  uint16_t d;
  asm volatile("ld.shared.u16 %0, [%1 + %2];" : "=h"(d) : "r"(shared), "n"(kAt) : "memory");
  return d;
}

}  // namespace ptx
