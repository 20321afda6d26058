// Scales and offsets of a warp's columns: from memory straight to registers, a turn ahead.
//
// A tile is 64 rows of 32 columns. What a lane needs of one, for its columns l/4 + 8j, is 16 bytes, twice as many for f16
// offsets; four lanes read the same. The upper level of 256 rows stands in front of their four tiles.
#pragma once

#include <cstdint>

#include "blocks/blocks_params.cuh"
#include "common/fragment.cuh"
#include "common/global.cuh"
#include "common/global_vector.cuh"
#include "common/half2.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"
#include "int4/stream_rows.cuh"

namespace blocks {

constexpr int kTile = 64;       // rows of scales
constexpr int kSuperTiles = 4;  // that share the upper level
using q4::kStreamUnits;

// A scale and an offset for each of a lane's columns in a unit.
struct Group {
  float scale[4], offset[4];
};

// An unsigned byte of a word, less kLess: put into the mantissa of 2^23, and that taken away.
template <int kByte, int kLess>
__device__ __forceinline__ float byte(uint32_t word) {
  return __uint_as_float(ptx::prmt<0x7440 | kByte>(word, 0x4b000000)) - (8388608.0f + kLess);
}

__device__ __forceinline__ void halves(float (&to)[4], uint32_t low, uint32_t high) {
  fragment::unpack<fragment::Element::kF16>(low, to[0], to[1]);
  fragment::unpack<fragment::Element::kF16>(high, to[2], to[3]);
}

// Groups of kGroup rows: of 16, the kind is kBytes; of 32, any other.
template <int kGroup>
class Scales {
  static constexpr bool kBytes = kGroup == 16;

  bool bytes, offsets;          // what there is beside f16 scales: constants in a loop over groups of 16
  int tile_bytes, super_bytes;
  uint64_t from[kStreamUnits];  // this lane's part of the next tile
  int tile;                     // which that is
  uint4 lower[kStreamUnits];  // of this tile: scales, or bytes
  uint4 more[kStreamUnits];   // of this tile: f16 offsets; or the upper level

 public:
  // first: the first tile. depth: rows of w, with padding.
  template <class UnitOf>
  __device__ __forceinline__ void start(const BlockParams& p, int first, int64_t depth, UnitOf&& unit_of) {
    const Kind kind = static_cast<Kind>(p.kind);
    bytes = kBytes || kind == Kind::kBytesAndOffsets, offsets = !kBytes && kind != Kind::kHalves;
    tile_bytes = kind == Kind::kHalvesAndOffsets ? 256 : 128;
    super_bytes = !bytes ? 0 : kBytes ? 64 : 128;
    const int64_t tiles = depth / kTile, supers = (tiles + kSuperTiles - 1) / kSuperTiles;
    const int64_t strip = tiles * tile_bytes + supers * super_bytes;
    const int64_t at = static_cast<int64_t>(first) * tile_bytes + (first / kSuperTiles + 1) * super_bytes;
    unroll<0, kStreamUnits>([&](auto u) {
      const q4::Unit unit = unit_of(u);
      from[u] = ptx::opaque(ptx::global_address(unit.up ? p.scales_up : p.scales) + unit.index * strip + at +
                            threadIdx.x % 32 / 4 * 16);
    });
    tile = first;
    load_upper();
    load();
  }

  // The next tile, which exists, in place of this one.
  __device__ __forceinline__ void next() {
    if (tile % kSuperTiles == 0) load_upper();
    load();
  }

  // Of this tile's group kAt.
  template <int kAt>
  __device__ __forceinline__ Group group(int u) const {
    Group g;
    const uint4& a = lower[u];
    if (bytes) {
      halves(g.scale, more[u].x, more[u].y);
      if (offsets) halves(g.offset, more[u].z, more[u].w);
      const uint32_t word = kAt == 0 ? a.x : kAt == 1 ? a.y : kAt == 2 ? a.z : a.w;
      unroll<0, 4>([&](auto j) {
        g.scale[j] *= byte<j, kBytes ? 128 : 0>(word);
        if (offsets) g.offset[j] *= byte<j, 0>(kAt == 0 ? a.z : a.w);
      });
    } else {
      halves(g.scale, kAt == 0 ? a.x : a.z, kAt == 0 ? a.y : a.w);
      if (offsets) halves(g.offset, kAt == 0 ? more[u].x : more[u].z, kAt == 0 ? more[u].y : more[u].w);
    }
    return g;
  }

  // Whether there are offsets.
  __device__ __forceinline__ bool has_offsets() const { return offsets; }

 private:
  __device__ __forceinline__ void load() {
    unroll<0, kStreamUnits>([&](auto u) { lower[u] = ptx::ld_global_cg_16<0>(from[u]); });
    if (offsets && !bytes) unroll<0, kStreamUnits>([&](auto u) { more[u] = ptx::ld_global_cg_16<128>(from[u]); });
    ++tile;
    const int step = tile_bytes + (tile % kSuperTiles == 0 ? super_bytes : 0);
    unroll<0, kStreamUnits>([&](auto u) { from[u] = ptx::opaque(from[u] + step); });
  }

  // What the tile at `from` has above it.
  __device__ __forceinline__ void load_upper() {
    if (!bytes) return;
    const int back = tile % kSuperTiles * tile_bytes + super_bytes;
    unroll<0, kStreamUnits>([&](auto u) {
      if constexpr (kBytes) {
        const uint2 scale = ptx::ld_global_cg_8(from[u] - back - threadIdx.x % 32 / 4 * 8);
        more[u].x = scale.x, more[u].y = scale.y;
      } else {
        more[u] = ptx::ld_global_cg_16<0>(from[u] - back);
      }
    });
  }
};

}  // namespace blocks
