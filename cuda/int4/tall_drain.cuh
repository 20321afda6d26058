// The end of a tall tile: as gemm::epilogue, but gate and up are in neighbouring warps.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/gemm.cuh"

namespace q4 {

// Writes a warp's first and second 8 of 16 rows, by way of shared memory; where gated, its half of the pair's.
//
// Hazards  H5 where gated, a warp reads what its neighbour wrote, before and after which all warps meet
template <class C>
__device__ __forceinline__ void tall_epilogue(const GemmParams& p, unsigned char* smem, const typename C::Accumulators& acc,
                                              int first_row, int first_col, int warp) {
  using gemm::Chunk;
  using Drain = gemm::Drain<C>;
  static_assert(C::kWarpCols == 32, "four lanes have a row's chunks");
  const bool gated = p.w_up != nullptr;
  const uint32_t lane = threadIdx.x % 32;
  const auto staging = [&](int of) { return reinterpret_cast<float4*>(smem + of * C::kStagingBytes); };
  const auto meet = [&] {
    if (gated) {
      __syncthreads();  // H5
    } else {
      __syncwarp();
    }
  };
  // This lane's two columns of four blocks of 8, in its first row: its second is a constant further.
  float* own[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t col = 8 * j + fragment::acc_col(lane, 0);
    own[j] = reinterpret_cast<float*>(staging(warp) + Drain::at(fragment::acc_row(lane, 0), col / 4)) + col % 4;
  }
  const int chunk = lane % 4 * gemm::kChunkCols, col = first_col + chunk;
  const gemm::Finish<C::kElement> finish(p, gated, col);
  const int rows = finish.exist > 0 ? p.m - first_row : 0;  // H4
  const float4* from = staging(gated ? warp & ~1 : warp);
  const float4* from_up = staging(warp | 1);
#pragma unroll 1
  for (int block = 0; block < C::A::kBlocks; ++block) {
    meet();
#pragma unroll
    for (int i = 0; i < C::A::kBlocks; ++i) {  // registers have no index
      if (i != block) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          *reinterpret_cast<float2*>(own[j] + h * 8 * C::kWarpCols) = make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
        }
    }
    meet();
    const int first = lane / 4 + (gated ? warp % 2 * 8 : 0);
#pragma unroll 1
    for (int down = first; down < (gated ? first + 1 : 16); down += 8) {
      const int row = 16 * block + down;
      if (row >= rows) break;
      Chunk z, u;
      Drain::read(z, from, down, chunk);
      if (gated) Drain::read(u, from_up, down, chunk);
      if (p.partial == nullptr) {
        finish.row(z, u, first_row + row);
      } else {
        gemm::store_partial(p, blockIdx.y, first_row + row, col, z, u);
      }
    }
  }
}

}  // namespace q4
