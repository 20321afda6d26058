// Stores and loads that may meet others of the same bytes: two slots that agree, a page that is copied twice. The result
// is then one of the values, element by element, and no more is promised; plain accesses would promise nothing at all.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"

namespace ptx {

// st.relaxed.gpu of 16, 8, 2 and 1 bytes, at multiples of their size.
__device__ __forceinline__ void st_relaxed_v4(uint64_t global, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :: "l"(global), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ __forceinline__ void st_relaxed_v2(uint64_t global, uint32_t a, uint32_t b) {
  asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" :: "l"(global), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void st_relaxed_b16(uint64_t global, uint16_t a) {
  asm volatile("st.relaxed.gpu.global.b16 [%0], %1;" :: "l"(global), "h"(a) : "memory");
}
__device__ __forceinline__ void st_relaxed_b8(uint64_t global, uint32_t a) {
  asm volatile("st.relaxed.gpu.global.b8 [%0], %1;" :: "l"(global), "r"(a) : "memory");
}

// ld.relaxed.gpu of 16 bytes and of 1.
__device__ __forceinline__ void ld_relaxed_v4(uint32_t (&d)[4], uint64_t global) {
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "l"(global) : "memory");
}
__device__ __forceinline__ uint32_t ld_relaxed_b8(uint64_t global) {
  uint32_t d;
  asm volatile("ld.relaxed.gpu.global.b8 %0, [%1];" : "=r"(d) : "l"(global) : "memory");
  return d;
}

// ld.global of 16 and of 8 bytes, each as one instruction whatever stands in other branches.
__device__ __forceinline__ uint4 ld_global_v4(uint64_t global) {
  uint4 d;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w) : "l"(global) : "memory");
  return d;
}
__device__ __forceinline__ uint2 ld_global_v2(uint64_t global) {
  uint2 d;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(d.x), "=r"(d.y) : "l"(global) : "memory");
  return d;
}

}  // namespace ptx
