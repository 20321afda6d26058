// 4-bit weights for tall tiles: as int4_operand.cuh, 32 columns of a warp, groups of any length.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/shared.cuh"
#include "common/unroll.cuh"
#include "int4/dequantize.cuh"
#include "int4/int4_operand.cuh"
#include "int4/int4_params.cuh"

namespace q4 {

template <class C>
class TallWeights {
  static constexpr int kDeep = C::kDepth / kUnit;  // units down a tile
  static constexpr int kScalesAt = kDeep * kUnitBytes;
  static constexpr int kZerosAt = kScalesAt + kMostGroups * kScaleBytes;
  static_assert(C::kDepth == 64 && C::kWarpCols == kUnit, "as the layout has it");

  const Int4Params* params;
  uint64_t codes;                 // this lane's chunk of the next tile
  uint64_t scales, zeros;         // this lane's chunk of the next groups to come, of which there may be none:
  bool has_scales, has_zeros;
  uint32_t ring;                  // where codes and the like go, in stage 0
  uint32_t scale_at, zero_at;     // those of this lane's columns, in stage 0
  int copies_at, loads_at;        // with so many tiles left a group begins, or one of which the beginning is not in the range
  uint32_t begins, shift;         // bit s: a group begins at step s > 0 of a tile, the (s >> shift)-th

  uint4 words;
  uint2 scale;
  Offsets<C::kElement> offsets;

 public:
  using Params = Int4Params;
  static constexpr int kWarpBytes = kZerosAt + kMostGroups * kZeroBytes;
  static constexpr int kStageBytes = C::kWarpsN * kWarpBytes;
  static constexpr int kBlocks = C::kWarpCols / 16;

  // shared: of stage 0, this warp's part. tile_first: the first of so many tiles of K.
  __device__ __forceinline__ void start(const Int4Params& p, uint32_t shared, int tile_first, int tiles, Unit unit) {
    const int lane = threadIdx.x % 32;
    const int deep = (p.gemm.k + C::kDepth - 1) / C::kDepth * kDeep, units = (p.gemm.n + kUnit - 1) / kUnit;
    params = &p;
    codes = ptx::global_address(unit.up ? p.gemm.w_up : p.gemm.w) + lane * 16 +
            (static_cast<int64_t>(unit.index) * deep + tile_first * kDeep) * kUnitBytes;
    ring = ptx::opaque(shared + lane * 16);
    const int into = tile_first % p.tiles_per_group;  // a range of K may begin within a group
    copies_at = loads_at = tiles + into;
    begins = ptx::opaque(p.groups_per_tile == kMostGroups ? 0b1110u : p.groups_per_tile == 2 ? 0b0100u : 0u);
    shift = p.groups_per_tile == kMostGroups ? 0 : 1;
    const int first_group = tile_first / p.tiles_per_group * p.groups_per_tile;
    const auto chunk = [&](const void* of, const void* of_up, int bytes, bool& exists) {
      const int group = lane / (bytes / 16);
      exists = group < p.groups_per_tile;
      return ptx::global_address(unit.up ? of_up : of) + lane % (bytes / 16) * 16 + unit.index * bytes +
             static_cast<int64_t>(first_group + (exists ? group : 0)) * units * bytes;
    };
    scales = chunk(p.scales, p.scales_up, kScaleBytes, has_scales);
    zeros = chunk(p.zeros, p.zeros_up, kZeroBytes, has_zeros);
    has_zeros = has_zeros && p.zeros != nullptr;
    scale_at = ptx::opaque(shared + kScalesAt + lane / 4 * 8);
    zero_at = ptx::opaque(shared + kZerosAt + lane / 4 * 2);
    offsets.set(0x8888);
  }

  // A tile, kAhead tiles after the next, of so many that are left. Rows are padded to whole tiles, with codes that stand for
  // zero.
  template <int kAhead>
  __device__ __forceinline__ void copy(uint32_t stage, int left) {
    ptx::cp_async_cg_16<0, kAhead * kDeep * kUnitBytes>(ring + stage, codes);
    ptx::cp_async_cg_16<kUnitBytes, (kAhead * kDeep + 1) * kUnitBytes>(ring + stage, codes);
    if (left <= copies_at) copy_groups(stage);
  }

  __device__ __forceinline__ void advance(int tiles) { codes = ptx::opaque(codes + tiles * kDeep * kUnitBytes); }

  // Fragments of the step-th 16 rows of a tile, with the scales that begin there; so many tiles are left.
  template <int kStep>
  __device__ __forceinline__ void load(uint32_t (&f)[kBlocks][4], uint32_t stage, int left) {
    if constexpr (kStep == 0) {
      if (left <= loads_at) load_group(0, stage);
    } else {
      if (begins >> kStep & 1) load_group(kStep >> shift, stage);
    }
    if constexpr (kStep % 2 == 0) words = ptx::ld_shared_16<kStep / 2 * kUnitBytes>(ring + stage);
    dequantize(f[0], kStep % 2 == 0 ? words.x : words.z, scale.x, offsets, 0);
    dequantize(f[1], kStep % 2 == 0 ? words.y : words.w, scale.y, offsets, 1);
  }

 private:
  __device__ __forceinline__ void copy_groups(uint32_t stage) {
    copies_at -= params->tiles_per_group;
    const uint32_t units = (static_cast<uint32_t>(params->gemm.n) + kUnit - 1) / kUnit * params->groups_per_tile;
    if (has_scales) ptx::cp_async_cg_16<kScalesAt, 0>(ring + stage, scales);
    scales += static_cast<uint64_t>(units) * kScaleBytes;
    if (has_zeros) ptx::cp_async_cg_16<kZerosAt, 0>(ring + stage, zeros);
    zeros += static_cast<uint64_t>(units) * kZeroBytes;
  }

  // A group of the tile's.
  __device__ __forceinline__ void load_group(int group, uint32_t stage) {
    if (group == 0) loads_at -= params->tiles_per_group;
    scale = ptx::ld_shared_8<0>(scale_at + stage + group * kScaleBytes);
    if (params->zeros != nullptr) offsets.set(ptx::ld_shared_2<0>(zero_at + stage + group * kZeroBytes));
  }
};

}  // namespace q4
