// flash_decode over a cache in 8 bits: decode.cuh with other tiles.
//
// Shapes   Q, O, LSE as there, Q and O f16 or bf16; K, V [pages,page_size,Hkv,…] bytes: E4M3, E5M2 or int8, with scales
//          of K and V for each KV head or for all. D and Dv any multiples of 16 that fit
// Tensor   operations are those of f16 for either type of Q: what is stored is exact in f16, so is Q after its conversion,
//          see below, and P has three bits more than in bf16
// Columns  A matrix load gives a lane four neighbouring bytes of a key's row. Its first and third byte, and its second and
//          fourth, are the two registers of an operand of S = QKᵀ; each 16 columns of Q lie in that order, even ones first.
//          A transposed load gives it two neighbouring bytes of two rows of V: even and odd columns are operands of
//          different blocks of O, put together again when O is stored
// Q        Each row is multiplied by the power of two that brings its largest element to 2^15..2^16, and rounded to f16:
//          exact for f16, and for elements of bf16 down to 2^-31 of the largest; others are off by 2^-40 of it at most.
//          Scores are multiplied by the inverse
// Scales   K's is a factor of scores with the inverse above, V's of O. Read where they are used, not kept meanwhile
// NaN      of E4M3 is an infinity in the operands; sums that are infinite become NaN. A query with infinities therefore
//          makes NaN of infinite scores, of -∞ too
// Smem     4 rings of one K and one V tile: 4·(4+4) KiB; Q 4 KiB at D=128
// Regs     D=128: O 64 + Q 32 + S 16 + K or V 4 and 8 of f16 + offsets 8
// The rest, hazards among it, is as in decode.cuh.
#pragma once

#include <cstdint>

#include "attention/decode.cuh"
#include "attention/decode_dequantise.cuh"
#include "attention/decode_quantised_params.cuh"
#include "common/fragment.cuh"
#include "common/half2.cuh"
#include "common/ptx.cuh"
#include "common/ptx_vector.cuh"
#include "common/softmax_state.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace decode {

template <Format kFormat_, int kDim>
struct QuantisedConfig : Config<fragment::Element::kF16, kDim, /*kOptions=*/true, /*kCacheBytes=*/1> {
  using Base = Config<fragment::Element::kF16, kDim, true, 1>;
  static constexpr Format kFormat = kFormat_;
  struct Smem : Base::Smem {
    float row_factors[Base::kTileQ];  // what has been divided out of each row of Q
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);
};

// 2^exponent, for -126 to 127.
__device__ __forceinline__ float power_of_two(int exponent) { return __uint_as_float((exponent + 127) << 23); }

template <class C>
struct QuantisedTiles {
  const QuantisedDecodeParams& params;
  int kv_head;
  typename C::Queries rQ;
  float row_factor[2];  // of scores of the lane's rows
  uint32_t sQ, sK, sV;  // this lane's ldmatrix addresses

  __device__ __forceinline__ QuantisedTiles(const QuantisedDecodeParams& all, const Item& item)
      : params(all), kv_head(item.kv_head) {}

  // Two elements of Q.
  __device__ __forceinline__ void unpack(uint32_t pair, float& low, float& high) const {
    if (params.is_bf16) {
      fragment::unpack<fragment::Element::kBf16>(pair, low, high);
    } else {
      fragment::unpack<fragment::Element::kF16>(pair, low, high);
    }
  }

  // Eight threads take a row of Q, 16 bytes at a time.
  __device__ __forceinline__ void fetch(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                        const Item& item) const {
    constexpr int kChunks = C::kHeadDim / 8 / 8;  // for each thread
    const int row = threadIdx.x / 8, first = threadIdx.x % 8;
    const int group = p.num_heads / p.num_kv_heads;
    const int at = item.first_row + row, token = at / group, head = item.kv_head * group + at % group;
    const bool exists = token < seq.q_len;  // H4
    const char* gQ = static_cast<const char*>(p.q) +
                     2 * ((static_cast<int64_t>(seq.q_start) + token) * p.q_stride_token + head * p.q_stride_head);
    uint4 chunks[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int chunk = first + 8 * i;
      chunks[i] = exists && chunk * 8 < p.head_dim ? reinterpret_cast<const uint4*>(gQ)[chunk] : uint4{};  // H7
    }
    uint32_t top_bits = 0;  // of magnitudes; NaN counts as the largest
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const uint32_t pairs[4] = {chunks[i].x, chunks[i].y, chunks[i].z, chunks[i].w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float low, high;
        unpack(pairs[k], low, high);
        top_bits = max(top_bits, max(__float_as_uint(fabsf(low)), __float_as_uint(fabsf(high))));
      }
    }
#pragma unroll
    for (int mask = 1; mask < 8; mask *= 2) top_bits = max(top_bits, __shfl_xor_sync(0xffffffffu, top_bits, mask));
    // Rows of next to nothing stay so: neither factor may leave the range of f32.
    const int exponent = max(static_cast<int>(top_bits >> 23) - 127, -100);
    const float factor = power_of_two(15 - exponent);
    if (first == 0) smem.row_factors[row] = power_of_two(exponent - 15);
    const uint32_t sQ = ptx::shared_address(smem.queries);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int chunk = first + 8 * i;
      const uint32_t pairs[4] = {chunks[i].x, chunks[i].y, chunks[i].z, chunks[i].w};
      float even[4], odd[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        unpack(pairs[k], even[k], odd[k]);
        even[k] *= factor;
        odd[k] *= factor;
      }
      // Columns 16i..16i+15: the even ones in the first of two chunks, the odd ones in the second.
      const auto store = [&](int to, const float (&x)[4]) {
        ptx::st_shared_v2(sQ + swizzle::offset<C::kQueryBytes>(row, to) + chunk % 2 * 8,
                          __uint_as_float(ptx::cvt_rn_f16x2(x[0], x[1])), __uint_as_float(ptx::cvt_rn_f16x2(x[2], x[3])));
      };
      store(chunk & ~1, even);
      store(chunk | 1, odd);
    }
  }

  // Rows of Q, 16 of their columns.
  template <int kAt>
  __device__ __forceinline__ void load_queries(uint32_t (&to)[C::kBlocks][4]) const {
    ptx::ldmatrix_x4<swizzle::immediate<C::kQueryBytes>(kAt, 0)>(to[0], swizzle::turn<C::kQueryBytes>(sQ, kAt));
  }

  __device__ __forceinline__ void settle(typename C::Smem& smem) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    sQ = ptx::shared_address(smem.queries) +
         swizzle::offset<C::kQueryBytes>(fragment::a_row(lane), fragment::a_chunk(lane));
    if constexpr (C::kKeepQ) unroll<0, C::kHeadDim / 16>([&](auto i) { load_queries<i>(rQ[i]); });
    const float k_factor = params.k_scales[kv_head * params.k_scales_stride] / kGain<C::kFormat>;
#pragma unroll
    for (int h = 0; h < 2; ++h) row_factor[h] = k_factor * smem.row_factors[fragment::acc_row(lane, 2 * h)];
    sK = ptx::shared_address(smem.rings[warp].k) +
         swizzle::offset<C::kKeyBytes>(fragment::b_nk_row(lane), fragment::b_nk_chunk(lane));
    sV = ptx::shared_address(smem.rings[warp].v) +
         swizzle::offset<C::kValueBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane));
  }

  // S[block] += Q·Kᵀ of eight keys and the 16 columns that four bytes of each lane are.
  template <bool kFirst>
  static __device__ __forceinline__ void score_block(float (&s)[4], const uint32_t (&q)[4], uint32_t bytes) {
    uint32_t even, odd;
    dequantise<C::kFormat>(bytes, even, odd);
    if constexpr (kFirst) {
      ptx::mma_m16n8k16_f16_from_zero(s, q, even, odd);
    } else {
      ptx::mma_m16n8k16_f16(s, q, even, odd);
    }
  }

  __device__ __forceinline__ void score(typename C::Scores& s) const {
    unroll<0, C::kKeyBytes / 32>([&](auto i) {
      constexpr int d = swizzle::pair<C::kKeyBytes>(i);
      uint32_t q[2][C::kBlocks][4];
      if constexpr (C::kKeepQ) {
#pragma unroll
        for (int r = 0; r < 8; ++r) q[r / 4][0][r % 4] = rQ[2 * d + r / 4][0][r % 4];
      } else {
        load_queries<2 * d>(q[0]);
        load_queries<2 * d + 1>(q[1]);
      }
      unroll<0, C::kKeyCols / 2>([&](auto j) {
        uint32_t rK[4];
        ptx::ldmatrix_x4<swizzle::immediate<C::kKeyBytes>(d, j)>(rK, swizzle::turn<C::kKeyBytes>(sK, d));
        score_block<i == 0>(s[0][2 * j], q[0][0], rK[0]);
        score_block<false>(s[0][2 * j], q[1][0], rK[1]);
        score_block<i == 0>(s[0][2 * j + 1], q[0][0], rK[2]);
        score_block<false>(s[0][2 * j + 1], q[1][0], rK[3]);
      });
    });
#pragma unroll
    for (int i = 0; i < C::kKeyCols * 4; ++i) {
      float& score = s[0][i / 4][i % 4];
      score = with_nan<C::kFormat>(score * row_factor[i % 4 / 2]);
    }
  }

  __device__ __forceinline__ void accumulate(typename C::Output& o, SoftmaxState<C::kBlocks>& state,
                                             const typename C::Scores& s, float scale) const {
    unroll<0, C::kTileK / 16>([&](auto k) {
      uint32_t rP[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // accumulator pair (j, h) is A register 2j + h
        const float* pair = &s[0][2 * k + i / 2][i % 2 * 2];
        const float low = state.weigh(pair[0], scale, i % 2);
        const float high = state.weigh(pair[1], scale, i % 2);
        rP[i] = ptx::cvt_rn_f16x2(low, high);
      }
      unroll<0, C::kValueBytes / 32>([&](auto i) {
        constexpr int j = swizzle::pair<C::kValueBytes>(i);
        uint32_t rV[4];
        ptx::ldmatrix_x4_trans<swizzle::immediate<C::kValueBytes>(j, k)>(rV, swizzle::turn<C::kValueBytes>(sV, j));
#pragma unroll
        for (int c = 0; c < 2; ++c) {  // 16 columns
          uint32_t even[2], odd[2];
#pragma unroll
          for (int r = 0; r < 2; ++r) dequantise<C::kFormat>(rV[2 * c + r], even[r], odd[r]);
          ptx::mma_m16n8k16_f16(o[0][4 * j + 2 * c], rP, even[0], even[1]);
          ptx::mma_m16n8k16_f16(o[0][4 * j + 2 * c + 1], rP, odd[0], odd[1]);
        }
      });
    });
  }

  // The lane's columns of a pair of blocks are four neighbours. Sixteen columns of row r of O live at j ^ (r % 2): rows
  // differ in their banks.
  static __device__ __forceinline__ void store(uint32_t sO, const typename C::Output& o) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = fragment::acc_row(lane, 2 * h);
#pragma unroll
      for (int j = 0; j < C::kOutCols / 2; ++j) {
        const float(&even)[4] = o[0][2 * j];
        const float(&odd)[4] = o[0][2 * j + 1];
        const uint32_t at = row * C::kValueDim + 16 * (j ^ row % 2) + 4 * (lane % 4);
        ptx::st_shared_v4(sO + 4 * at, with_nan<C::kFormat>(even[2 * h]), with_nan<C::kFormat>(odd[2 * h]),
                          with_nan<C::kFormat>(even[2 * h + 1]), with_nan<C::kFormat>(odd[2 * h + 1]));
      }
    }
  }
  static __device__ __forceinline__ int quad_at(int row, int quad) {
    return row * C::kValueDim + (quad / 4 ^ row % 2) * 16 + quad % 4 * 4;
  }
  // Nothing of no values stays nothing, whatever their scale.
  __device__ __forceinline__ void complete(Sum& sum) const {
    const float v_factor = params.v_scales[kv_head * params.v_scales_stride] / kGain<C::kFormat>;
    const float factor = sum.l == 0.0f ? 0.0f : v_factor;
    sum.o = {sum.o.x * factor, sum.o.y * factor, sum.o.z * factor, sum.o.w * factor};
  }
  __device__ __forceinline__ void write(const PrefillParams& p, const Sum& sum, int64_t token, int head, int quad) const {
    if (params.is_bf16) {
      decode::write<fragment::Element::kBf16>(p, sum, token, head, quad);
    } else {
      decode::write<fragment::Element::kF16>(p, sum, token, head, quad);
    }
  }
};

template <class C>
__device__ __forceinline__ void flash_decode_quantised(const QuantisedDecodeParams& params) {
  share_out<C, QuantisedTiles>(params);
}

}  // namespace decode
