// Indices that the host has not seen.
#pragma once

#include <cstdint>

namespace kv {

// The element of index `at` of indices that are int64 or int32.
__device__ __forceinline__ int64_t index_at(const void* indices, int32_t are_64, int64_t at) {
  return are_64 ? static_cast<const int64_t*>(indices)[at] : static_cast<const int32_t*>(indices)[at];
}

}  // namespace kv
