// 4-bit weights as an operand of gemm/mainloop.cuh: codes wait in shared memory, and become operands in registers.
//
// Codes are in units of 32 columns and 32 rows, 16 bytes for each lane: every lane copies what it will read itself. With
// the codes of a tile come the scales, and zero points, of the groups of rows that begin in it; a lane reads those of its
// columns into registers when it comes there.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/shared.cuh"
#include "common/unroll.cuh"
#include "gemm/operands.cuh"
#include "int4/dequantize.cuh"
#include "int4/int4_params.cuh"

namespace q4 {

constexpr int kUnit = 32;  // rows and columns
constexpr int kUnitBytes = kUnit * kUnit / 2;
constexpr int kScaleBytes = 2 * kUnit, kZeroBytes = kUnit / 2;  // of a unit's columns, for one group
constexpr int kMostGroups = 4;                                  // of a tile

// A unit of columns, and whether it is one of w_up.
struct Unit {
  int index;
  bool up;
};

// kWarpCols columns of a warp. kShort: groups are shorter than a tile, which has 64 rows.
template <class C, int kWarpCols, bool kShort>
class Operand {
  static constexpr int kUnits = kWarpCols / kUnit;
  static constexpr int kDeep = C::kDepth / kUnit;  // units down a tile
  static constexpr int kScalesAt = kDeep * kUnits * kUnitBytes;
  static constexpr int kZerosAt = kScalesAt + kMostGroups * kUnits * kScaleBytes;
  static_assert(C::kDepth == 64 && kMostGroups * kUnits * kScaleBytes / 16 <= 32, "each lane copies one chunk of scales");

  uint64_t codes[kUnits];  // this lane's chunk of each unit, in the next tile
  uint32_t ring;           // where the first goes, in stage 0
  uint64_t scales, zeros;        // this lane's chunk of the next groups to come, of which there may be none:
  bool has_scales, has_zeros;
  const Int4Params* params;
  uint32_t scale_at, zero_at;    // those of this lane's columns, in stage 0
  int tiles_per_group;
  int until_copy, until_load;    // tiles until a group begins; not positive: now
  int shift;                     // step s belongs to the tile's group s >> shift

  uint4 words[kUnits];
  uint2 scale[kUnits];
  Offsets<C::kElement> offsets[kUnits];

 public:
  static constexpr int kWarpBytes = kZerosAt + kMostGroups * kUnits * kZeroBytes;
  static constexpr int kStageBytes = C::kWarpsN * kWarpBytes;
  static constexpr int kBlocks = kWarpCols / 16;
  using Fragments = uint32_t[kBlocks][4];

  // shared: of stage 0, this warp's part. unit_of(u): the u-th of the warp's units.
  template <class UnitOf>
  __device__ __forceinline__ void start(const Int4Params& p, uint32_t shared, int tile_first, UnitOf&& unit_of) {
    const int lane = threadIdx.x % 32;
    const int deep = (p.gemm.k + C::kDepth - 1) / C::kDepth * kDeep, units = (p.gemm.n + kUnit - 1) / kUnit;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const Unit unit = unit_of(u);
      codes[u] = ptx::global_address(unit.up ? p.gemm.w_up : p.gemm.w) + lane * 16 +
                 (static_cast<int64_t>(unit.index) * deep + tile_first * kDeep) * kUnitBytes;
    }
    ring = ptx::opaque(shared + lane * 16);
    tiles_per_group = p.tiles_per_group;
    until_copy = until_load = -(tile_first % tiles_per_group);
    const int groups = kShort ? p.groups_per_tile : 1;
    const int first_group = kShort ? tile_first * groups : tile_first / tiles_per_group;
    shift = groups == kMostGroups ? 0 : 1;
    const auto chunk = [&](uint64_t of, uint64_t of_up, int bytes, bool& exists) {
      const int chunks = bytes / 16, group = lane / (kUnits * chunks), c = lane % (kUnits * chunks);
      const Unit unit = unit_of(c / chunks);
      exists = group < groups;
      return (unit.up ? of_up : of) + static_cast<int64_t>(first_group + (exists ? group : 0)) * units * bytes +
             unit.index * bytes + c % chunks * 16;
    };
    scales = chunk(ptx::global_address(p.scales), ptx::global_address(p.scales_up), kScaleBytes, has_scales);
    scale_at = ptx::opaque(shared + kScalesAt + lane / 4 * 8);
    zeros = chunk(ptx::global_address(p.zeros), ptx::global_address(p.zeros_up), kZeroBytes, has_zeros);
    zero_at = ptx::opaque(shared + kZerosAt + lane / 4 * 2);
    has_zeros = has_zeros && p.zeros != nullptr;
    params = &p;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) offsets[u].set(0x8888);
  }

  template <int kStage, int kAhead>
  __device__ __forceinline__ void copy() {
    unroll<0, kDeep>([&](auto h) {
      unroll<0, kUnits>([&](auto u) {
        ptx::cp_async_cg_16<kStage * kStageBytes + (h * kUnits + u) * kUnitBytes, (kAhead * kDeep + h) * kUnitBytes>(
            ring, codes[u]);
      });
    });
    copy_groups<kStage * kStageBytes>(ring);
  }

  // Rows are padded to whole tiles, with codes that stand for zero.
  __device__ __forceinline__ void copy_last(int stage, int ahead, int) {
    unroll<0, kDeep>([&](auto h) {
      unroll<0, kUnits>([&](auto u) {
        ptx::cp_async_cg_16<(h * kUnits + u) * kUnitBytes, h * kUnitBytes>(ring + stage * kStageBytes,
                                                                        codes[u] + ahead * (kDeep * kUnitBytes));
      });
    });
    copy_groups<0>(ring + stage * kStageBytes);
  }

  __device__ __forceinline__ void advance(int tiles) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) codes[u] = ptx::opaque(codes[u] + tiles * (kDeep * kUnitBytes));
  }

  template <int kStage>
  __device__ __forceinline__ void load(Fragments& f, int step, int more = 0) {
    if (kShort || step == 0 && begins(until_load)) {
      load_groups<kStage>(kShort ? step >> shift : 0, more);
    }
    if (step % 2 == 0) {
      unroll<0, kUnits>([&](auto u) {
        const uint32_t at = ring + more * kStageBytes;
        words[u] = step == 0 ? ptx::ld_shared_16<kStage * kStageBytes + u * kUnitBytes>(at)
                             : ptx::ld_shared_16<kStage * kStageBytes + (kUnits + u) * kUnitBytes>(at);
      });
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const uint4 w = words[u];
      dequantize(f[2 * u], step % 2 == 0 ? w.x : w.z, scale[u].x, offsets[u], 0);
      dequantize(f[2 * u + 1], step % 2 == 0 ? w.y : w.w, scale[u].y, offsets[u], 1);
    }
  }

 private:
  // Whether a group begins with the next tile, for one of the two who count them.
  __device__ __forceinline__ bool begins(int& until) const {
    const bool begins = until <= 0;
    if (begins) until += tiles_per_group;
    --until;
    return begins;
  }

  template <int kTo>
  __device__ __forceinline__ void copy_groups(uint32_t to) {
    if (!kShort && !begins(until_copy)) return;
    // To the groups after: computed afresh, which is cheaper than to keep it.
    const uint32_t units = (ptx::opaque(static_cast<uint32_t>(params->gemm.n)) + kUnit - 1) / kUnit;
    const uint64_t step = static_cast<uint64_t>(units) * (kShort ? params->groups_per_tile * kScaleBytes : kScaleBytes);
    if (has_scales) ptx::cp_async_cg_16<kTo + kScalesAt, 0>(to, scales);
    scales = ptx::opaque(scales + step);
    if (has_zeros) ptx::cp_async_cg_16<kTo + kZerosAt, 0>(to, zeros);
    zeros = ptx::opaque(zeros + step / (kScaleBytes / kZeroBytes));
  }

  template <int kStage>
  __device__ __forceinline__ void load_groups(int group, int more) {
    constexpr int kAt = kStage * kStageBytes;
    const uint32_t from = scale_at + more * kStageBytes + group * (kUnits * kScaleBytes);
    const uint32_t zeros_from = zero_at + more * kStageBytes + group * (kUnits * kZeroBytes);
    unroll<0, kUnits>([&](auto u) { scale[u] = ptx::ld_shared_8<kAt + u * kScaleBytes>(from); });
    if (params->zeros == nullptr) return;
    unroll<0, kUnits>([&](auto u) { offsets[u].set(ptx::ld_shared_2<kAt + u * kZeroBytes>(zeros_from)); });
  }
};

}  // namespace q4
