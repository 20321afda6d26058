// Thin names for PTX instructions: the only file with inline assembly.
//
// Each wrapper is one instruction, named after its mnemonic. Collective instructions and those that touch memory are
// `volatile`, so that the compiler keeps their order and never moves them into a divergent branch; memory ones also
// clobber "memory". Pure ones are neither.
#pragma once

#include <cstdint>

namespace ptx {

// ---- addresses and identity ---------------------------------------------------------------------------------------

// Byte address within the CTA's shared window, as the .shared instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Byte address within global memory, as the .global instructions below take it.
__device__ __forceinline__ uint64_t global_address(const void* p) { return __cvta_generic_to_global(p); }

// threadIdx.x, read afresh: a value needed only before and after a long loop is cheaper to read twice than to keep.
__device__ __forceinline__ uint32_t reread_tid() {
  uint32_t tid;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
  return tid;
}

// An address whose origin the compiler forgets (no instruction): keeps it from replacing a running address by multiples
// of its step, each of which would cost more registers and instructions than the step itself.
__device__ __forceinline__ uint64_t opaque(uint64_t address) {
  asm volatile("" : "+l"(address));
  return address;
}
__device__ __forceinline__ uint32_t opaque(uint32_t address) {
  asm volatile("" : "+r"(address));
  return address;
}

// ---- asynchronous copies ------------------------------------------------------------------------------------------

// cp.async.cg: 16 bytes global + kFrom → shared + kTo past L1; bytes from `valid` on are zero-filled and not read.
// Scope: thread. Visible to the CTA after cp_async_wait_group and a barrier. Both addresses are multiples of 16.
template <int kTo, int kFrom>
__device__ __forceinline__ void cp_async_cg_16(uint32_t shared, uint64_t global, uint32_t valid) {
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16, %4;"
               :: "r"(shared), "l"(global), "n"(kTo), "n"(kFrom), "r"(valid) : "memory");
}

// cp.async.cg of all 16 bytes.
template <int kTo, int kFrom>
__device__ __forceinline__ void cp_async_cg_16(uint32_t shared, uint64_t global) {
  asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16;"
               :: "r"(shared), "l"(global), "n"(kTo), "n"(kFrom) : "memory");
}

// st.shared.v4: 16 zero bytes to shared + kTo.
template <int kTo>
__device__ __forceinline__ void st_shared_zero_16(uint32_t shared) {
  asm volatile("st.shared.v4.b32 [%0 + %1], {%2, %2, %2, %2};" :: "r"(shared), "n"(kTo), "r"(0) : "memory");
}

// cp.async.commit_group: closes the group of copies that this thread has issued since the last one.
__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// cp.async.wait_group: at most kPending of this thread's latest groups are still in flight afterwards.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" :: "n"(kPending) : "memory");
}

// ---- loads --------------------------------------------------------------------------------------------------------

// ld.global.u32, u8.
__device__ __forceinline__ uint32_t ld_global_u32(uint64_t global) {
  uint32_t d;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(d) : "l"(global));
  return d;
}
__device__ __forceinline__ uint32_t ld_global_u8(uint64_t global) {
  uint32_t d;
  asm volatile("ld.global.u8 %0, [%1];" : "=r"(d) : "l"(global));
  return d;
}

// ---- matrices -----------------------------------------------------------------------------------------------------

// ldmatrix.x4: four 8×8 matrices of 16-bit elements; lane 8i+r holds the address of row r of matrix i, to which kAt is
// added. Lane l receives elements 2(l%4)+{0,1} of row l/4 of each. Warp-collective.
template <int kAt>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared), "n"(kAt) : "memory");
}

// ldmatrix.x4.trans: as ldmatrix_x4, every matrix transposed.
template <int kAt>
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared), "n"(kAt) : "memory");
}

// mma.m16n8k16, f16 operands, f32 accumulation: d += a·b. Warp-collective.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with d = a·b.
__device__ __forceinline__ void mma_m16n8k16_f16_from_zero(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                         uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// mma.m16n8k16, bf16 operands, f32 accumulation: d += a·b. Warp-collective.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same with d = a·b.
__device__ __forceinline__ void mma_m16n8k16_bf16_from_zero(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                          uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

// ---- conversions --------------------------------------------------------------------------------------------------

// cvt.rn.f16x2.f32: two floats, rounded to nearest even, `low` in bits 0-15.
__device__ __forceinline__ uint32_t cvt_rn_f16x2(float low, float high) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// cvt.rn.bf16x2.f32: two floats, rounded to nearest even, `low` in bits 0-15.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// cvt.f32.f16: exact.
__device__ __forceinline__ float cvt_f32_f16(uint16_t x) {
  float d;
  asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"(x));
  return d;
}

// ---- approximate functions, subnormals flushed --------------------------------------------------------------------

// 2^x, relative error at most 2^-22.
__device__ __forceinline__ float ex2_approx_ftz(float x) {
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// log2(x), absolute error at most 2^-22 in (0.5, 2), relative error at most 2^-22 elsewhere.
__device__ __forceinline__ float lg2_approx_ftz(float x) {
  float d;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// 1/x, at most one unit in the last place off.
__device__ __forceinline__ float rcp_approx_ftz(float x) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// tanh(x), relative error at most 2^-11.
__device__ __forceinline__ float tanh_approx(float x) {
  float d;
  asm("tanh.approx.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// ---- reductions to global memory ----------------------------------------------------------------------------------

// red.or.b32, relaxed, visible to the whole GPU.
__device__ __forceinline__ void red_or_b32(uint32_t* global, uint32_t value) {
  asm volatile("red.relaxed.gpu.global.or.b32 [%0], %1;"
               :: "l"(global_address(global)), "r"(value) : "memory");
}

// red.max.u64, relaxed, visible to the whole GPU.
__device__ __forceinline__ void red_max_u64(uint64_t* global, uint64_t value) {
  asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;"
               :: "l"(global_address(global)), "l"(value) : "memory");
}

// ---- shuffles over the whole warp ---------------------------------------------------------------------------------

// shfl.bfly: the value of lane l ^ mask.
__device__ __forceinline__ float shfl_bfly(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// shfl.idx: lane 0's value. The assembler then knows it to be the same in all lanes, and that branches on it are
// uniform: without that it duplicates code around every collective instruction behind them.
__device__ __forceinline__ int shfl_first(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// redux.or: the union of all lanes' bits.
__device__ __forceinline__ uint32_t redux_or(uint32_t value) { return __reduce_or_sync(0xffffffffu, value); }

// vote.ballot: bit l is lane l's predicate.
__device__ __forceinline__ uint32_t ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

}  // namespace ptx
