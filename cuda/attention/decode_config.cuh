// What distinguishes one decode entry from another, and the shared memory that follows from it.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/swizzle.cuh"

namespace decode {

// What is known of a sequence: lengths and places read from device memory once, checked, and reported when bad.
struct Sequence {
  int64_t begin, end;  // its units: chunks of keys, of each of its items; none if there is nothing to do
  int64_t pages;       // where its page ids begin in the table
  int32_t q_start, q_len;
  int32_t k_len;             // decides positions
  int32_t first_chunk;       // that some query sees
  int32_t chunks;            // of each of its items; at least one
  int32_t keys;              // that exist, from the first on
  int32_t mask;              // where its mask begins, in bytes
  int32_t index;             // within the batch
};

// kElement: of the operands of tensor operations. kOptions: everything that changes scores, masks and dims; without, head
// dims are those of the entry. kCacheBytes: of an element of K and V in memory.
template <fragment::Element kElement_, int kDim, bool kOptions_, int kCacheBytes_ = 2>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kCacheBytes = kCacheBytes_;
  static constexpr int kHeadDim = kDim;
  static constexpr int kValueDim = kDim;
  static constexpr bool kGather = true;
  static constexpr bool kOptions = kOptions_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = 1;         // row blocks of 16 per warp: all warps have the same rows
  static constexpr bool kKeepQ = kDim <= 128;  // in registers
  static constexpr int kTileQ = 16;
  static constexpr int kTileK = kDim * kCacheBytes > 256 ? 16 : 32;  // keys of a warp's step
  static constexpr int kChunk = kWarps * kTileK;       // keys of a CTA's step: what is shared out
  static constexpr int kStages = 1;
  static constexpr int kQueryBytes = kHeadDim * 2;              // of a row of Q
  static constexpr int kKeyBytes = kHeadDim * kCacheBytes;      // of a row of K
  static constexpr int kValueBytes = kValueDim * kCacheBytes;   // of a row of V
  static constexpr int kKeyCols = kTileK / 8;        // accumulator blocks along the keys
  static constexpr int kOutCols = kValueDim / 8;     // accumulator blocks along the head dimension of V
  static constexpr int kPartial = kTileQ * (kValueDim + 2);  // floats of a partial result
  static_assert(kTileK <= 32, "a lane for each key");
  static_assert(kKeyBytes % 64 == 0 && kValueBytes % 64 == 0, "rows are whole lines");

  // What a warp has for itself: K and V of a step, in the end its O.
  struct Ring {
    unsigned char k[kTileK * kKeyBytes];
    unsigned char v[kTileK * kValueBytes];
  };
  static_assert(sizeof(Ring) >= kTileQ * kValueDim * sizeof(float), "O takes the place of K and V");

  struct Smem {
    Ring rings[kWarps];
    unsigned char queries[kTileQ * kQueryBytes];
    Sequence table[kThreads];  // sequences of one window of the batch
    int64_t units_end;         // of the window
    int64_t sums[kWarps];      // room of scans
    int32_t tops[kWarps];
    int32_t found;  // index into the table
    int32_t floor;  // no sequence of the next window may have queries before this row
    float m[kWarps][kTileQ], l[kWarps][kTileQ];
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);

  using Scores = float[kBlocks][kKeyCols][4];
  using Queries = uint32_t[kHeadDim / 16][kBlocks][4];
  using Output = float[kBlocks][kOutCols][4];
};

}  // namespace decode
