// What becomes of the accumulated products: bias, activation, gate, residual, and one rounding.
//
// Eight neighbouring columns of a row at a time: `Chunk`.
#pragma once

#include <cstdint>

#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "gemm/gemm_params.cuh"
#include "gemm/operands.cuh"

namespace gemm {

using Chunk = float[kChunkCols];

__device__ __forceinline__ float sigmoid(float z) {
  return ptx::rcp_approx_ftz(1.0f + ptx::ex2_approx_ftz(z * -1.44269504088896341f));
}

// The first element, which becomes the last.
__device__ __forceinline__ float rotate(Chunk& z) {
  const float first = z[0];
#pragma unroll
  for (int i = 0; i + 1 < kChunkCols; ++i) z[i] = z[i + 1];
  return z[kChunkCols - 1] = first;
}

// What becomes of z and, where gated, of u; the product of both is the caller's. Which activation it is, is asked once.
__device__ __forceinline__ void activate(Activation activation, Chunk& z, Chunk& u) {
  const auto each = [&](auto f) {
#pragma unroll
    for (int i = 0; i < kChunkCols; ++i) z[i] = f(z[i]);
  };
  switch (activation) {
    case Activation::kRelu: return each([](float z) { return z > 0.0f || z != z ? z : 0.0f; });
    case Activation::kSilu: return each([](float z) { return z * sigmoid(z); });
    case Activation::kGeluTanh:
      return each([](float z) { return z * sigmoid(1.59576912160573071f * (z + 0.044715f * z * z * z)); });  // 2√(2/π)
    case Activation::kGeluErf:  // long: one after the other
#pragma unroll 1
      for (int i = 0; i < kChunkCols; ++i) {
        const float first = rotate(z);
        z[kChunkCols - 1] = 0.5f * first * (1.0f + erff(first * 0.707106781186547524f));
      }
      return;
    case Activation::kClampedSwiglu:
      each([](float z) {
        const float low = z > 7.0f ? 7.0f : z;
        return low * sigmoid(1.702f * low);
      });
#pragma unroll
      for (int i = 0; i < kChunkCols; ++i) u[i] = (u[i] > 7.0f ? 7.0f : u[i] < -7.0f ? -7.0f : u[i]) + 1.0f;
      return;
    default: return;
  }
}

// Elements of a row from `row` on, of which `exist` do.
template <fragment::Element kElement>
__device__ __forceinline__ void load_chunk(Chunk& to, const uint16_t* row, int exist) {
  uint32_t pairs[kChunkCols / 2];
  if (exist >= kChunkCols && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    const uint4 all = *reinterpret_cast<const uint4*>(row);
    pairs[0] = all.x, pairs[1] = all.y, pairs[2] = all.z, pairs[3] = all.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunkCols / 2; ++i) {
      const uint32_t low = 2 * i < exist ? row[2 * i] : 0, high = 2 * i + 1 < exist ? row[2 * i + 1] : 0;
      pairs[i] = low | high << 16;
    }
  }
#pragma unroll
  for (int i = 0; i < kChunkCols / 2; ++i) fragment::unpack<kElement>(pairs[i], to[2 * i], to[2 * i + 1]);
}

__device__ __forceinline__ void add_f32(Chunk& to, const float* row, int exist) {
  if (exist >= kChunkCols && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    const float4 a = reinterpret_cast<const float4*>(row)[0], b = reinterpret_cast<const float4*>(row)[1];
    to[0] += a.x, to[1] += a.y, to[2] += a.z, to[3] += a.w, to[4] += b.x, to[5] += b.y, to[6] += b.z, to[7] += b.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunkCols; ++i) {
      if (i < exist) to[i] += row[i];
    }
  }
}

__device__ __forceinline__ void store_f32(float* row, const Chunk& from, int exist) {
  if (exist >= kChunkCols && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    reinterpret_cast<float4*>(row)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(row)[1] = make_float4(from[4], from[5], from[6], from[7]);
  } else {
#pragma unroll
    for (int i = 0; i < kChunkCols; ++i) {
      if (i < exist) row[i] = from[i];
    }
  }
}

template <fragment::Element kElement>
__device__ __forceinline__ void store_16_bit(uint16_t* row, const Chunk& from, int exist) {
  uint32_t pairs[kChunkCols / 2];
#pragma unroll
  for (int i = 0; i < kChunkCols / 2; ++i) pairs[i] = fragment::pack<kElement>(from[2 * i], from[2 * i + 1]);
  if (exist >= kChunkCols && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    *reinterpret_cast<uint4*>(row) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  } else {
#pragma unroll
    for (int i = 0; i < kChunkCols; ++i) {
      if (i < exist) row[i] = static_cast<uint16_t>(pairs[i / 2] >> i % 2 * 16);
    }
  }
}

// Eight columns of y, for any number of rows.
template <fragment::Element kElement>
struct Finish {
  const GemmParams& p;
  bool gated;
  int col, exist;
  Chunk bias = {}, bias_up = {};

  __device__ __forceinline__ Finish(const GemmParams& params, bool gated, int col)
      : p(params), gated(gated), col(col), exist(params.n - col) {
    if (exist <= 0) return;
    if (p.bias != nullptr) load_chunk<kElement>(bias, static_cast<const uint16_t*>(p.bias) + col, exist);
    if (gated && p.bias_up != nullptr) {
      load_chunk<kElement>(bias_up, static_cast<const uint16_t*>(p.bias_up) + col, exist);
    }
  }

  // y[row, col..] from the products z of x and w, and u of x and w_up, which matters where gated. Spends both.
  __device__ __forceinline__ void row(Chunk& z, Chunk& u, int row) const {
    add(z, bias);
    if (gated) add(u, bias_up);
    activate(static_cast<Activation>(p.activation), z, u);
    if (gated) {
#pragma unroll
      for (int i = 0; i < kChunkCols; ++i) z[i] *= u[i];
    }
    if (p.residual != nullptr) {
      Chunk summand;
      load_chunk<kElement>(summand, static_cast<const uint16_t*>(p.residual) + row * p.residual_stride + col, exist);
      add(z, summand);
    }
    const int64_t at = row * p.y_stride + col;
    if (p.y_is_f32) {
      store_f32(static_cast<float*>(p.y) + at, z, exist);
    } else {
      store_16_bit<kElement>(static_cast<uint16_t*>(p.y) + at, z, exist);
    }
  }

 private:
  static __device__ __forceinline__ void add(Chunk& to, const Chunk& summand) {
#pragma unroll
    for (int i = 0; i < kChunkCols; ++i) to[i] += summand[i];
  }
};

// Where the partial sums of a split lie: [splits][1 or 2: gate, up][m][n].
__device__ __forceinline__ int64_t partial_at(const GemmParams& p, int split, bool up, int row, int col) {
  const int parts = p.w_up != nullptr ? 2 : 1;
  return ((static_cast<int64_t>(split) * parts + up) * p.m + row) * p.n + col;
}

// A row's eight columns of a split: z and, where gated, u.
__device__ __forceinline__ void store_partial(const GemmParams& p, int split, int row, int col, const Chunk& z,
                                              const Chunk& u) {
  store_f32(p.partial + partial_at(p, split, false, row, col), z, p.n - col);
  if (p.w_up != nullptr) store_f32(p.partial + partial_at(p, split, true, row, col), u, p.n - col);
}

}  // namespace gemm
