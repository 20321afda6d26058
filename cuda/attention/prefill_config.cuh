// What distinguishes one prefill entry from another, and the shared memory that follows from it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/fragment.cuh"
#include "common/pipeline.cuh"
#include "common/swizzle.cuh"

namespace prefill {

// kLean: ragged keys, no options. kPaged: keys in pages, no options. kFull: either, any head dims that fit, all options.
enum class Variant { kLean, kPaged, kFull };

template <fragment::Element kElement_, int kHeadDim_, int kValueDim_, Variant kVariant_, int kTileK_, int kWarps_ = 4,
          int kBlocks_ = 2>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kValueDim = kValueDim_;
  static constexpr bool kGather = kVariant_ != Variant::kLean;   // keys by offsets, else by a running pointer
  static constexpr bool kOptions = kVariant_ == Variant::kFull;  // what changes scores, masks and dims
  static constexpr int kWarps = kWarps_;
  static constexpr int kBlocks = kBlocks_;  // row blocks of 16 per warp: with fewer than 2, shared memory binds
  static constexpr bool kKeepQ = kBlocks == 1;  // in registers, where there is room for it
  static constexpr int kWarpRows = 16 * kBlocks;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTileQ = kWarpRows * kWarps;
  static constexpr int kTileK = kTileK_;
  static constexpr int kStages = 1;
  static constexpr int kKeyBytes = kHeadDim * 2;  // of a row of Q or K
  static constexpr int kValueBytes = kValueDim * 2;  // of a row of V or O
  static constexpr int kKeyCols = kTileK / 8;     // accumulator blocks along the keys
  static constexpr int kOutCols = kValueDim / 8;  // accumulator blocks along the head dimension of V
  static constexpr int kWords = (kTileK + 31) / 32;  // of a bit for each key of a tile
  static_assert(kTileK % 16 == 0, "whole mma steps");
  static_assert(kValueDim <= kHeadDim, "O takes the place of Q");
  static_assert(kTileK <= kThreads && kTileQ <= kThreads, "a thread for each key and for each query");

  // Where the tiles of Q (later O), K and V begin. What keeps Q in registers has K and V follow it in the same place.
  static constexpr int kAtQ = 0;
  static constexpr int kAtK = kKeepQ ? 0 : kTileQ * kKeyBytes;
  static constexpr int kAtV = kAtK + kTileK * kKeyBytes;
  static constexpr int kQueryBytes = kTileQ * kKeyBytes, kKeyValueBytes = kTileK * (kKeyBytes + kValueBytes);
  static constexpr int kTileBytes = !kKeepQ ? kQueryBytes + kKeyValueBytes
                                    : kQueryBytes > kKeyValueBytes ? kQueryBytes : kKeyValueBytes;

  struct LeanSmem {
    unsigned char tiles[kTileBytes];
    int32_t bounds[4];
  };
  struct GatherSmem : LeanSmem {
    uint64_t pages;                // global address of the sequence's first page id
    int32_t keys;                  // that exist, from the first on
    int32_t first, end;            // keys that exist and that some row of the CTA may see
    int32_t full_first, full_end;  // keys that exist and that all of its rows may see
    uint32_t bad_page;             // whether a page id among them is out of range
    uint32_t k_offsets[2][kTileK], v_offsets[2][kTileK];  // of even and odd tiles; see TileCopy::gathered
    uint32_t visible[kWords][kTileQ];                     // of an edge tile: which keys each row sees
  };
  struct FullSmem : GatherSmem {
    uint64_t mask;                 // global address of the sequence's first mask bit, or 0
    float slope_log2;              // of ALiBi, per key
    uint32_t live[kWarps][kWords];  // keys that some row of the warp sees
  };
  using Smem = std::conditional_t<kOptions, FullSmem, std::conditional_t<kGather, GatherSmem, LeanSmem>>;
  static constexpr uint32_t kSmemBytes = sizeof(Smem);

  using CopyK = TileCopy<kThreads, kKeyBytes>;  // Q too
  using CopyV = TileCopy<kThreads, kValueBytes>;
  using Scores = float[kBlocks][kKeyCols][4];
  using Queries = uint32_t[kHeadDim / 16][kBlocks][4];
  using Output = float[kBlocks][kOutCols][4];
};

}  // namespace prefill
