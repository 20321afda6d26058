// kv_copy: pages of caches to other pages, of the same caches or of others, as lists of pairs on the device say
//
// Shapes   caches [pages, page_bytes] each; pairs [num_pairs, 2]; see copy_params.cuh
// Grid     (num_pairs · blocks_per_page, caches)   Block 256, 16 KiB of a page, four 16-byte loads in flight per thread
// Hazards  H1 a pair is read once and checked; what it says is used only if both pages exist
//          H2 a page may be source and target, or target twice: loads and stores are relaxed, each byte is one of the
//          values that were written to it, or what was there before
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "kv/copy_params.cuh"
#include "kv/index.cuh"
#include "kv/offences.cuh"
#include "kv/relaxed.cuh"

namespace kv {

struct CopyConfig {
  static constexpr int kThreads = 256, kLoads = 4;
  static constexpr int kBlockBytes = 16 * kThreads * kLoads;
  static constexpr int kTileQ = kBlockBytes, kTileK = 1, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

__device__ __forceinline__ void copy_pages(const CopyParams& p) {
  using C = CopyConfig;
  const uint32_t pair = blockIdx.x / p.blocks_per_page, block = blockIdx.x - pair * p.blocks_per_page;
  const int64_t source = index_at(p.pairs, p.pairs_are_64, 2 * static_cast<int64_t>(pair));      // H1
  const int64_t target = index_at(p.pairs, p.pairs_are_64, 2 * static_cast<int64_t>(pair) + 1);  // H1
  if (source < 0 || source >= p.from_pages || target < 0 || target >= p.to_pages) {
    if (block == 0 && blockIdx.y == 0 && threadIdx.x == 0) report(p.status, kPagePair, pair);
    return;
  }
  const int64_t first = static_cast<int64_t>(block) * C::kBlockBytes;
  const uint64_t from = p.from.at[blockIdx.y] + source * p.from_stride + first;
  const uint64_t to = p.to.at[blockIdx.y] + target * p.to_stride + first;
  const int bytes = static_cast<int>(min(p.page_bytes - first, static_cast<int64_t>(C::kBlockBytes)));
  if (p.wide) {
    uint32_t held[C::kLoads][4];
#pragma unroll
    for (int i = 0; i < C::kLoads; ++i) {
      const int at = 16 * (i * C::kThreads + threadIdx.x);
      if (at < bytes) ptx::ld_relaxed_v4(held[i], from + at);  // H2
    }
#pragma unroll
    for (int i = 0; i < C::kLoads; ++i) {
      const int at = 16 * (i * C::kThreads + threadIdx.x);
      if (at < bytes) ptx::st_relaxed_v4(to + at, held[i][0], held[i][1], held[i][2], held[i][3]);  // H2
    }
  } else {
#pragma unroll 1
    for (int at = threadIdx.x; at < bytes; at += C::kThreads) ptx::st_relaxed_b8(to + at, ptx::ld_relaxed_b8(from + at));
  }
}

}  // namespace kv
