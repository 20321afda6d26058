// More of ptx.cuh: vector accesses that the compiler would otherwise take apart. In a file of its own, as the text of every
// entry says on which lines of ptx.cuh it is based.
#pragma once

#include <cstdint>

namespace ptx {

// st.shared.v2.f32: two floats to a multiple of 8 bytes.
__device__ __forceinline__ void st_shared_v2(uint32_t shared, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" :: "r"(shared), "f"(x), "f"(y) : "memory");
}

// st.shared.v4.f32: four floats to a multiple of 16 bytes.
__device__ __forceinline__ void st_shared_v4(uint32_t shared, float x, float y, float z, float w) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" :: "r"(shared), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

}  // namespace ptx
