// blocks: y = act(x·W + bias) + residual, or act(x·W + bias)·(x·W_up + bias_up) + residual, W of GGUF's blocks
//
// Shapes   x [m,k]  w, w_up packed (src/blocks/layout.rs)  y, residual [m,n]; f16 or bf16, f32 accumulate; y in f32 on demand
// Grid     as int4/stream.cuh, whose strips, shares, sums and epilogue these are
// Warps    4. Operands are swapped, as there: a lane's codes are the 16-row operand, 16 rows of x are two of 8 columns each
// Smem     for each warp two turns of x; then the sums of all warps
// Turn     4096 bytes of codes for a warp: 64 rows of 8 bits, 128 of 4. Codes, eight loads of 16 bytes, and scales go from
//          memory straight to registers, a turn ahead
// Hazards  H1 a turn's copies of x: waited for, then seen by the warp, all lanes of which have then read the turn before
//          H2, H3 see int4/stream.cuh
// Numerics q is exact; products exact; sums of a group in f32 by the tensor cores' rule, then times the scale, in f32. With
//          offsets, the sum of x too, by a tensor operation with ones, times the offset. One rounding at the end
#pragma once

#include <cstdint>

#include "blocks/blocks_params.cuh"
#include "blocks/codes.cuh"
#include "blocks/scales.cuh"
#include "common/fragment.cuh"
#include "common/global.cuh"
#include "common/ptx.cuh"
#include "common/unroll.cuh"
#include "int4/stream.cuh"

namespace blocks {

template <class C>
class Stream;

template <fragment::Element kElement_, int kBits_, int kRows_>
struct Config {
  using Params = BlockParams;
  using Warp = Stream<Config>;
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kBits = kBits_, kRows = kRows_, kCols = kStreamUnits * q4::kUnit;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kResident = 2;  // blocks of a multiprocessor
  static constexpr int kTileQ = kRows, kTileK = kCols, kStages = 2;        // as the host calls them
  static constexpr int kTiles = 8 / kBits, kDepth = kTiles * kTile;        // of a turn: shares are cut between turns

  using Rows = q4::StreamRows<kRows, kTiles>;
  using Sums = float[kCols / 16][kRows / 8][4];

  static constexpr uint32_t kStageBytes = Rows::kBytes;
  static constexpr uint32_t kWarpBytes = kStages * kStageBytes;
  static constexpr uint32_t kSmemBytes = kWarps * kWarpBytes;
  static_assert(kRows * kCols * 4 <= kWarpBytes, "a warp's sums fit");
};

// A warp's stream.
template <class C>
class Stream {
  static constexpr int kUnits = 4;                        // down a turn
  static constexpr int kSteps = C::kDepth / 16 / kUnits;  // of 16 rows, in each of them
  static constexpr int kUnitBytes = 512, kFrom = kUnits * kUnitBytes;

  typename C::Rows rows;
  uint64_t codes[kStreamUnits];  // this lane's chunk of each unit, in this turn
  uint4 words[kUnits][kStreamUnits];
  q4::Offsets<C::kElement> zero;  // of 4-bit codes
  uint32_t x[C::kRows / 8][4];    // of two steps
  typename C::Sums part;          // of rows that share a scale
  float ones[C::kRows / 8][4];    // of x alone, in the same rows

 public:
  // Adds the products of turns first to end - 1, of which there are some. unit_of(u): the u-th of the warp's units.
  template <class UnitOf>
  __device__ __forceinline__ void run(typename C::Sums& sums, const BlockParams& params, uint32_t shared, int first_row,
                                      int first, int end, UnitOf&& unit_of) {
    const GemmParams& p = params.gemm;
    const int64_t column = static_cast<int64_t>((p.k - 1) / C::kDepth + 1) * kFrom;
    unroll<0, kStreamUnits>([&](auto u) {
      const q4::Unit unit = unit_of(u);
      codes[u] = ptx::opaque(ptx::global_address(unit.up ? p.w_up : p.w) + unit.index * column +
                             static_cast<int64_t>(first) * kFrom + threadIdx.x % 32 * 16);
    });
    unroll<0, kUnits>([&](auto i) { load<i, 0>(); });
    rows.template start<C::kStageBytes>(p, shared, first_row, first * C::kTiles);
    if (C::kBits == 4) zero.set(params.zero * 0x1111);
    if (C::kBits == 8 && static_cast<Kind>(params.kind) == Kind::kBytes) {
      turns<16>(sums, params, first, end, unit_of);
    } else {
      turns<32>(sums, params, first, end, unit_of);
    }
  }

 private:
  template <int kGroup, class UnitOf>
  __device__ __forceinline__ void turns(typename C::Sums& sums, const BlockParams& params, int first, int end,
                                        UnitOf&& unit_of) {
    const GemmParams& p = params.gemm;
    Scales<kGroup> scales;
    scales.start(params, first * C::kTiles, static_cast<int64_t>((p.k - 1) / C::kDepth + 1) * C::kDepth, unit_of);
    copy(p, 0, first);
    uint32_t stage = 0;
#pragma unroll 1
    for (int turn = first; turn < end; ++turn) {
      ptx::cp_async_wait_group<0>();
      __syncwarp();  // H1
      const bool more = turn + 1 < end;
      if (more) copy(p, C::kStageBytes - stage, turn + 1);
      unroll<0, kUnits * kSteps>([&](auto step) {
        constexpr int kRow = step * 16 % kTile, kTileOf = step * 16 / kTile, kUnit = step / kSteps;
        if constexpr (step % 2 == 0) rows.template load<kTileOf, kRow / 32>(x, stage);
        this->template multiply<kUnit, step % kSteps, step % 2, kRow % kGroup == 0>();
        if (scales.has_offsets()) this->template multiply_ones<step % 2, kRow % kGroup == 0>();
        if constexpr ((kRow + 16) % kGroup == 0) {
          unroll<0, kStreamUnits>([&](auto u) {
            add(sums, scales.template group<kRow / kGroup>(u), scales.has_offsets(), u);
          });
        }
        if constexpr (step % kSteps == kSteps - 1) {
          if (more) this->template load<kUnit, kFrom>();
        }
        if constexpr (kRow + 16 == kTile) {
          if (more || kTileOf + 1 < C::kTiles) scales.next();
        }
        if constexpr (step % 2 == 1) __syncwarp();  // keeps the assembler from putting loads off, and operands ready
      });
      stage = C::kStageBytes - stage;
      unroll<0, kStreamUnits>([&](auto u) { codes[u] = ptx::opaque(codes[u] + kFrom); });
    }
  }

  // A turn of x.
  __device__ __forceinline__ void copy(const GemmParams& p, uint32_t stage, int turn) {
    if ((turn + 1) * C::kDepth <= p.k) {
      rows.copy(stage);
    } else {
      rows.copy_last(p, stage, turn * C::kTiles);
    }
    ptx::cp_async_commit_group();
  }

  // A unit of this turn, or kAhead bytes further.
  template <int kUnit, int kAhead>
  __device__ __forceinline__ void load() {
    unroll<0, kStreamUnits>(
        [&](auto u) { words[kUnit][u] = ptx::ld_global_cg_16<kAhead + kUnit * kUnitBytes>(codes[u]); });
  }

  // 16 rows: adds to part, or sets it. kPair: which of the two steps of x.
  template <int kUnit, int kStep, int kPair, bool kSets>
  __device__ __forceinline__ void multiply() {
    unroll<0, C::kCols / 16>([&](auto block) {
      uint32_t a[4];
      operand<C::kElement, C::kBits>(a, words[kUnit][block / 2], kStep, block % 2, zero);
      this->template multiply_operand<kPair, kSets>(part[block], a);
    });
  }

  template <int kPair, bool kSets>
  __device__ __forceinline__ void multiply_ones() {
    constexpr uint32_t kOne = C::kElement == fragment::Element::kF16 ? 0x3c003c00 : 0x3f803f80;
    const uint32_t a[4] = {kOne, kOne, kOne, kOne};
    multiply_operand<kPair, kSets>(ones, a);
  }

  template <int kPair, bool kSets>
  __device__ __forceinline__ void multiply_operand(float (&to)[C::kRows / 8][4], const uint32_t (&a)[4]) {
#pragma unroll
    for (int t = 0; t < C::kRows / 8; ++t) {
      if constexpr (kSets) {
        fragment::mma_from_zero<C::kElement>(to[t], a, x[t][2 * kPair], x[t][2 * kPair + 1]);
      } else {
        fragment::mma<C::kElement>(to[t], a, x[t][2 * kPair], x[t][2 * kPair + 1]);
      }
    }
  }

  // The sums of a group of a unit's columns, times its scale, and the sum of x, times its offset.
  __device__ __forceinline__ void add(typename C::Sums& sums, const Group& group, bool offsets, int u) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int t = 0; t < C::kRows / 8; ++t)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& sum = sums[2 * u + j / 2][t][j % 2 * 2 + i];
          sum = fmaf(part[2 * u + j / 2][t][j % 2 * 2 + i], group.scale[j], sum);
          if (offsets) sum = fmaf(ones[t][i], group.offset[j], sum);
        }
  }
};

}  // namespace blocks
