// What a warp of stream.cuh shares between its lanes: x, and the scales and zero points of its columns, a turn at a time,
// in shared memory. There is room for two turns: one is read while the other is copied.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"
#include "common/shared.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"
#include "int4/dequantize.cuh"
#include "int4/int4_operand.cuh"
#include "int4/int4_params.cuh"

namespace q4 {

constexpr int kTileRows = 64;    // of K
constexpr int kTurn = 2;         // tiles
constexpr int kStreamUnits = 2;  // across the columns of a warp

// kRows rows of x, kTiles of 64 columns in a turn. Rows that do not exist are zeros from the start on, columns past k become
// so when they are copied.
template <int kRows, int kTiles>
class StreamRows {
  static constexpr int kLine = 2 * kTileRows;  // bytes of a row in a tile
  static constexpr int kCopies = kRows / 8;    // rows that a lane copies, every eighth: half a line of each at a time

  uint64_t source[kCopies];  // this lane's chunk of each, in the next turn to copy
  uint32_t target[2];        // where it goes in both halves of a line, in the first stage
  uint32_t fragment[2];      // this lane's ldmatrix address in both units of a tile, in the first stage
  int exist;                 // of this lane's rows, the i-th if 8i is less

  // From a target to the i-th row, in a half of the turn.
  static __host__ __device__ constexpr int at(int i, int half) { return (half * kRows + i * 8) * kLine; }

  // Eight lanes copy half lines of rows that are four apart: they meet all banks once.
  static __device__ __forceinline__ int row() { return threadIdx.x % 32 / 8 + threadIdx.x / 4 % 2 * 4; }
  static __device__ __forceinline__ int chunk() { return threadIdx.x % 4; }

 public:
  static constexpr int kBytes = kTiles * kRows * kLine;  // of a turn

  // shared: of the first stage; the second is kStageBytes further. turn: the first to copy, by its first tile.
  template <int kStageBytes>
  __device__ __forceinline__ void start(const GemmParams& p, uint32_t shared, int first_row, int turn) {
    const int lane = threadIdx.x % 32;
    exist = p.m - first_row - row();
    unroll<0, 2>([&](auto i) {
      target[i] = ptx::opaque(shared + swizzle::offset<kLine>(row(), chunk() + 4 * i));
      fragment[i] = ptx::opaque(shared + swizzle::offset<kLine>(lane % 8, lane / 8 + 4 * i));
    });
    unroll<0, kCopies>([&](auto i) {
      const int64_t first = 8 * i < exist ? (first_row + row() + 8 * i) * p.x_stride : 0;
      source[i] = ptx::opaque(ptx::global_address(p.x) + 2 * (first + static_cast<int64_t>(turn) * kTileRows) +
                              chunk() * swizzle::kChunkBytes);
      if (8 * i < exist) return;
      unroll<0, 2 * kTiles>([&](auto part) {
        ptx::st_shared_zero_16<at(i, part / 2)>(target[part % 2]);
        ptx::st_shared_zero_16<at(i, part / 2) + kStageBytes>(target[part % 2]);
      });
    });
  }

  // The next turn, all of which exists.
  __device__ __forceinline__ void copy(uint32_t stage) {
    const uint32_t to[2] = {target[0] + stage, target[1] + stage};
    unroll<0, kCopies>([&](auto i) {
      if (8 * i < exist) {
        unroll<0, 2 * kTiles>([&](auto part) {
          ptx::cp_async_cg_16<at(i, part / 2), part * (kLine / 2)>(to[part % 2], source[i]);
        });
      }
    });
    unroll<0, kCopies>([&](auto i) { source[i] = ptx::opaque(source[i] + kTiles * kLine); });
  }

  // The last turn, by its first tile: some of its columns exist. Rarely needed, hence short.
  __device__ __forceinline__ void copy_last(const GemmParams& p, uint32_t stage, int turn) {
#pragma unroll 1
    for (int i = 0; i < kCopies; ++i) {
#pragma unroll 1
      for (int part = 0; part < 2 * kTiles; ++part) {
        const int64_t col = static_cast<int64_t>(turn) * kTileRows + part * (kTileRows / 2) + chunk() * gemm::kChunkCols;
        const int valid = min(max(2 * (p.k - col), int64_t{0}), int64_t{16});
        const uint64_t from = source[0] + 16 * i * p.x_stride + part * (kLine / 2);
        const uint32_t to = stage + (part % 2 == 0 ? target[0] : target[1]) + (part / 2 * kRows + i * 8) * kLine;
        if (8 * i < exist) ptx::cp_async_cg_16<0, 0>(to, from, valid);
      }
    }
  }

  // Operands of 8 rows each, of the two steps of a unit of K: f[0..2], f[2..4].
  template <int kHalf, int kRow>
  __device__ __forceinline__ void load(uint32_t (&f)[kRows / 8][4], uint32_t stage) const {
    unroll<0, kRows / 8>([&](auto t) { ptx::ldmatrix_x4<at(t, kHalf)>(f[t], fragment[kRow] + stage); });
  }
};

// Scales and zero points of a warp's columns. A turn has four slots for those of its 32-row units, or fewer if groups are
// longer: unit i finds its own in slot i >> shift.
class StreamGroups {
  static constexpr int kSlots = kTurn * kTileRows / kUnit;
  static constexpr int kSlotScales = kStreamUnits * kScaleBytes, kSlotZeros = kStreamUnits * kZeroBytes;
  static constexpr int kZerosAt = kSlots * kSlotScales;
  static_assert(kZerosAt / 16 == 32, "each lane copies one chunk of scales");

  uint64_t scales, zeros;            // this lane's chunk, of the next groups to copy
  uint64_t scales_step, zeros_step;  // to those after
  int scales_tile, zeros_tile;       // of the turn, to which they belong; many, if they do not exist
  uint32_t target;                   // of this lane's scales, in the first stage
  uint32_t scale_at, zero_at;        // those of this lane's columns, there
  bool has_zeros;
  int period;                        // groups begin with tiles that this divides: a power of two

 public:
  static constexpr int kBytes = kZerosAt + kSlots * kSlotZeros;  // of a turn
  int shift;

  // turn: the first to copy, by its first tile.
  template <class UnitOf>
  __device__ __forceinline__ void start(const Int4Params& p, uint32_t shared, int turn, UnitOf&& unit_of) {
    const int lane = threadIdx.x % 32, units = (p.gemm.n - 1) / kUnit + 1, tiles = (p.gemm.k - 1) / kTileRows + 1;
    has_zeros = p.zeros != nullptr;
    target = ptx::opaque(shared + lane * 16);
    scale_at = ptx::opaque(shared + lane / 4 * 8), zero_at = ptx::opaque(shared + kZerosAt + lane / 4 * 2);
    shift = p.groups_per_tile > 1 ? 0 : p.tiles_per_group == 1 ? 1 : 2;
    period = p.tiles_per_group >= tiles ? 1 << 30 : p.tiles_per_group < kTurn ? 1 : p.tiles_per_group;
    const int first = shift == 2 ? turn / period : turn * kTileRows / kUnit >> shift;
    const auto chunk = [&](const void* of, const void* of_up, int bytes, uint64_t& from, uint64_t& step, int& tile) {
      const int chunks = bytes / 16, slot = lane / (kStreamUnits * chunks);
      const Unit unit = unit_of(lane / chunks % kStreamUnits);
      const uint64_t group = static_cast<uint64_t>(units) * bytes;
      from = ptx::opaque(ptx::global_address(unit.up ? of_up : of) + (first + slot) * group +
                         static_cast<int64_t>(unit.index) * bytes + lane % chunks * 16);
      step = ptx::opaque((kSlots >> shift) * group);
      tile = slot < kSlots >> shift ? (slot << shift) * kUnit / kTileRows : INT32_MAX / 2;
    };
    chunk(p.scales, p.scales_up, kScaleBytes, scales, scales_step, scales_tile);
    chunk(p.zeros, p.zeros_up, kZeroBytes, zeros, zeros_step, zeros_tile);
    if (!has_zeros) zeros_tile = INT32_MAX / 2;
  }

  // Whether a turn brings groups that its predecessor did not have.
  __device__ __forceinline__ bool begin(int turn) const { return (turn & (period - 1)) == 0; }

  // The groups of the next turn that brings any, of which tiles up to `end` matter; kAll: all of them do.
  template <bool kAll>
  __device__ __forceinline__ void copy(uint32_t stage, int turn, int end) {
    const int last = kAll ? kTurn : end - turn;
    if (scales_tile < last) ptx::cp_async_cg_16<0, 0>(target + stage, scales);
    if (zeros_tile < last) ptx::cp_async_cg_16<kZerosAt, 0>(target + stage, zeros);
    scales = ptx::opaque(scales + scales_step);
    zeros = ptx::opaque(zeros + zeros_step);
  }

  // Those in a slot, in registers. offsets keep what they are where codes are symmetric.
  template <fragment::Element kElement>
  __device__ __forceinline__ void load(float (&scale)[kStreamUnits][4], Offsets<kElement> (&offsets)[kStreamUnits],
                                       uint32_t stage, int slot) const {
    const uint32_t from = scale_at + stage + slot * kSlotScales, zeros_from = zero_at + stage + slot * kSlotZeros;
    unroll<0, kStreamUnits>([&](auto u) {
      const uint2 pairs = ptx::ld_shared_8<u * kScaleBytes>(from);
      fragment::unpack<kElement>(pairs.x, scale[u][0], scale[u][1]);
      fragment::unpack<kElement>(pairs.y, scale[u][2], scale[u][3]);
    });
    if (!has_zeros) return;
    unroll<0, kStreamUnits>([&](auto u) { offsets[u].set(ptx::ld_shared_2<u * kZeroBytes>(zeros_from)); });
  }
};

}  // namespace q4
