// More of ptx.cuh: for what nvcc makes of loads.
#pragma once

namespace ptx {

// Uses a value, without an instruction. Where of four neighbours in memory only the first and the last are used, nvcc 13
// loads all four, and says so in a pragma that PTX has only from 8.3 on; where all are used, it has nothing to say.
__device__ __forceinline__ void use(int value) { asm volatile("" ::"r"(value)); }

}  // namespace ptx
