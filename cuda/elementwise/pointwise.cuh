// pointwise: y = factor · (act(a) ∘ b), element by element: gated activations, residual sums, scaled embeddings
//
// Shapes   a, b, y [rows, dim]; see pointwise_params.cuh
// Grid     (chunks of 8 elements / 256)   Block 256: a thread has one chunk, 16 bytes, of each operand
// Hazards  In place a thread reads its elements before it writes them, and no other thread's
// Numerics f32, one rounding; the activations are those of the matrix products' epilogue
#pragma once

#include <cstdint>

#include "elementwise/chunk.cuh"
#include "elementwise/pointwise_params.cuh"
#include "gemm/epilogue.cuh"

namespace elementwise {

template <fragment::Element kElement_>
struct PointwiseConfig {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kThreads = 256, kTileQ = 1, kTileK = kThreads * kChunk, kStages = 1;
  static constexpr uint32_t kSmemBytes = 0;
};

template <class C>
__device__ __forceinline__ void pointwise(const PointwiseParams& p) {
  const uint32_t chunk = blockIdx.x * C::kThreads + threadIdx.x;
  if (chunk >= static_cast<uint32_t>(p.chunks)) return;
  const uint32_t row = chunk / static_cast<uint32_t>(p.chunks_of_row);
  const int col = (chunk - row * p.chunks_of_row) * kChunk, exist = p.dim - col;
  const auto of = [&](const void* base, int64_t stride) {
    return static_cast<const uint16_t*>(base) + row * stride + col;
  };
  const PointwiseOp op = static_cast<PointwiseOp>(p.op);
  const Activation activation = static_cast<Activation>(p.activation);

  Packed second = {};
  const Packed first = load(of(p.a, p.a_stride), exist);
  if (op != PointwiseOp::kScale) second = load(of(p.b, p.b_stride), exist);
  Chunk a, b;
  unpack<C::kElement>(a, first);
  unpack<C::kElement>(b, second);
  gemm::activate(activation, a, b);
  if (op == PointwiseOp::kGate) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) a[i] *= b[i];
  } else if (op == PointwiseOp::kAdd) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) a[i] += b[i];
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) a[i] *= p.factor;
  store(const_cast<uint16_t*>(of(p.y, p.y_stride)), pack<C::kElement>(a), exist);
}

}  // namespace elementwise
