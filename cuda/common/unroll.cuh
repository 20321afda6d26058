// Loops whose index is a constant: where an offset has to be an immediate of the instruction, #pragma unroll comes too
// late.
#pragma once

// A value in the type; converts to int in constant expressions.
template <int kValue>
struct Index {
  __host__ __device__ constexpr operator int() const { return kValue; }
};

// f(Index<kFirst>), …, f(Index<kEnd - 1>).
template <int kFirst, int kEnd, class F>
__device__ __forceinline__ void unroll(F&& f) {
  if constexpr (kFirst < kEnd) {
    f(Index<kFirst>{});
    unroll<kFirst + 1, kEnd>(f);
  }
}

// The same with f returning whether to go on: whether it always did.
template <int kFirst, int kEnd, class F>
__device__ __forceinline__ bool unroll_while(F&& f) {
  if constexpr (kFirst < kEnd) {
    return f(Index<kFirst>{}) && unroll_while<kFirst + 1, kEnd>(f);
  }
  return true;
}
