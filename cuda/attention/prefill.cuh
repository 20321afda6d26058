// flash_prefill: O = softmax(f(scale·QKᵀ) + mask)·V in one pass                 [FlashAttention-2, Alg. 1]
//
// Options  f: soft-cap x → cap·tanh(x/cap), then ALiBi x → x - slope_h·|p - j|. mask: causal, window, bits. A sink is one
//          more logit of each row, without a value; O and LSE count it
// Shapes   Q [total_q,Hq,D]  O [total_q,Hq,Dv]  LSE [Hq,total_q] f32, natural log; head h reads KV head h/(Hq/Hkv)
//          K [total_k,Hkv,D]  V [total_k,Hkv,Dv], or in pages [pages,page_size,Hkv,…]
// Variants kLean: ragged K, V, causal or not, D and Dv those of the entry. kPaged: the same from pages. kFull: both, all
//          options, D and Dv any multiples of 8 that fit
// Grid     (ceil(max_seqlen_q / Br), Hq, batch), the heaviest causal tiles first        Block 128 = 4 warps; D=256: 8
// Tile     Br=128; Bc by entry, see prefill.cu; f16 or bf16 in, f32 accumulate
// Warps    S (Br×Bc), O (Br×Dv): rows 32w..32w+31 belong to warp w, as two blocks of 16; all columns. D=256: 16 rows
//          to each warp, and Q in registers
//          lane l holds rows l/4, l/4+8 of each block; columns 8j + 2(l%4) + {0,1}
// Order    key tiles from the last that is seen backwards, so that the running maximum settles early; those that need a
//          mask in a loop of their own. Tiles start at multiples of Bc keys and every row decides for itself when to
//          rescale: its bits do not depend on the batch, on its tile or on the rows beside it
// Smem     Q Br·D, K Bc·D, V Bc·Dv elements: 32+16+16 KiB at D=128, Bc=64; then a few lengths. Gathered keys: two offsets
//          for each key of two tiles, a bit for each row and key of one: 2 KiB. D=256: K and V where Q was, 64 KiB
// Stages   1 of K and 1 of V: V[j] arrives during S = QK[j]ᵀ, K[j-1] during O += PV[j]
// Swizzle  16-byte chunk c of row r lives at c ^ (r % 8) within its 128-byte line; see swizzle.cuh
// Regs     D=128, Bc=64: O 128 + S 64 + Q 8 + K or V 4 + m,l 8 = 212 before addressing; P replaces S as it is formed, and
//          the copies of the next K wait for the first of it: their addresses would not fit beside all of S
// Hazards  H1 K[j], V[j], offsets and masks are read only after a barrier that follows their last write or, for copies,
//             every thread's wait
//          H2 a buffer is refilled only after the barrier that follows its last read. Offsets of tile j are written behind
//             the last barrier of tile j+2, read up to the one of tile j: there are two of each
//          H3 O overwrites the warp's own rows of Q: no other warp reads them, and lanes are ordered by __syncwarp.
//             Where K and V follow Q, a barrier comes first
//          H4 rows past the end: keys become zeros and a mask, queries become zeros and are never written
//          H5 lengths, page ids and bounds come from device memory: each is loaded once, checked, and only the checked
//             value is used
//          H6 barriers: every branch around one depends only on values that are the same in all threads of the CTA
//          H7 columns past D: zeros in shared memory from the start, never copied; past Dv: whatever, never written
//          H8 0·NaN: V of keys that no row of the CTA may see is zeros, by its copy or, for mask bits, behind it
// Numerics p = ex2.approx(s·scale_log2 - m) with one fused multiply-add; l sums p before it is rounded to the input
//          type for PV; O is scaled by rcp.approx(l), 1 ulp, before the only rounding to the output type. s·scale_log2
//          must stay within f32. Soft-cap: tanh.approx is off by up to 2^-11 of its value, a score by cap·2^-11; the exact
//          variant, 1 - 2/(1 + 2^x) with ex2 and rcp, by about cap·2^-22
// Nothing  to attend to (no keys, all masked, all scores -∞): O = 0, LSE = -∞, or the sink. NaN scores give NaN. Keys with
//          NaN in V that a row may not see can still reach it when another row of its tile sees them (0·NaN)
#pragma once

#include <cstdint>

#include "attention/prefill_config.cuh"
#include "attention/prefill_keys.cuh"
#include "attention/prefill_params.cuh"
#include "attention/prefill_scores.cuh"
#include "attention/prefill_sequence.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/softmax_state.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace prefill {

enum class Masking { kNone, kEdge };

// O += P·V, P = 2^(S·scale_log2 - m) formed 16 keys at a time. sV: this lane's ldmatrix address.
// fetch() is called when the scores of the first keys have freed their registers.
template <class C, class Fetch>
__device__ __forceinline__ void accumulate(typename C::Output& o, SoftmaxState<C::kBlocks>& state,
                                           const typename C::Scores& s, float scale_log2, uint32_t sV, Fetch&& fetch) {
  unroll<0, C::kTileK / 16>([&](auto k) {
    uint32_t rP[C::kBlocks][4];
#pragma unroll
    for (int b = 0; b < C::kBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // accumulator pair (j, h) is A register 2j + h
        const float* pair = &s[b][2 * k + i / 2][i % 2 * 2];
        const int r = 2 * b + i % 2;
        const float low = state.weigh(pair[0], scale_log2, r);
        const float high = state.weigh(pair[1], scale_log2, r);
        rP[b][i] = fragment::pack<C::kElement>(low, high);
      }
    if constexpr (k == 0) fetch();
    unroll<0, C::kOutCols / 2>([&](auto i) {
      constexpr int j = swizzle::pair<C::kValueBytes>(i);
      uint32_t rV[4];
      ptx::ldmatrix_x4_trans<swizzle::immediate<C::kValueBytes>(j, k)>(rV, swizzle::turn<C::kValueBytes>(sV, j));
#pragma unroll
      for (int b = 0; b < C::kBlocks; ++b) {
        fragment::mma<C::kElement>(o[b][2 * j], rP[b], rV[0], rV[1]);
        fragment::mma<C::kElement>(o[b][2 * j + 1], rP[b], rV[2], rV[3]);
      }
    });
  });
}

// A CTA's walk over the key tiles of its query tile, from the last to the first.
template <class C>
struct Walk {
  using Keys = std::conditional_t<C::kGather, GatheredKeys<C>, RaggedKeys<C>>;

  int tile;             // the tile to visit next
  Keys keys;
  uint32_t wK, wV;      // where this thread copies a tile to
  uint32_t sQ, sK, sV;  // this lane's ldmatrix addresses
  typename C::Queries rQ;  // Q, if it is kept
  int last;             // see `mask_behind`
  bool edge;            // gathered keys: whether `tile` needs a mask

  // Points to tile `tiles - 1` and starts the copies of Q and of that tile's K; of ragged keys and if `edges`, of its V.
  __device__ __forceinline__ void start(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                        int q_first, int tiles, bool edges) {
    using Copy = typename C::CopyK;
    const uint32_t tid = threadIdx.x, lane = tid % 32, warp = ptx::shfl_first(static_cast<int>(tid / 32));
    const uint32_t head = blockIdx.y, kv_head = head / (p.num_heads / p.num_kv_heads);
    const int row = Copy::row(tid), q_rows = seq.q_len - q_first;
    tile = tiles - 1;

    const uint64_t gQ0 = first_row(p.q, Copy::chunk(tid), static_cast<int64_t>(seq.q_start) + q_first,
                                   p.q_stride_token, head, p.q_stride_head);
    uint64_t gQ = gQ0 + 2 * (C::kTileQ - Copy::kStep + row) * p.q_stride_token;
    keys.point(p, seq, kv_head, tile);

    const uint32_t base_q = ptx::shared_address(smem.tiles + C::kAtQ);
    const uint32_t base_k = ptx::shared_address(smem.tiles + C::kAtK), base_v = ptx::shared_address(smem.tiles + C::kAtV);
    wK = base_k + Copy::offset(tid);
    wV = base_v + C::CopyV::offset(tid);
    sQ = base_q + warp * C::kWarpRows * C::kKeyBytes +
         swizzle::offset<C::kKeyBytes>(fragment::a_row(lane), fragment::a_chunk(lane));
    sK = base_k + swizzle::offset<C::kKeyBytes>(fragment::b_nk_row(lane), fragment::b_nk_chunk(lane));
    sV = base_v + swizzle::offset<C::kValueBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane));

    const int keys_left = seq.k_len - tile * C::kTileK;
    const int lines = C::kOptions ? Copy::lines(tid, p.head_dim) : Copy::kLines;
    Copy::template bounded<C::kTileQ>(base_q + Copy::offset(tid), gQ, -2 * Copy::kStep * p.q_stride_token,
                                      q_rows - row, gQ0, lines);  // H4
    if constexpr (C::kKeepQ) {
      ptx::cp_async_commit_group();
      ptx::cp_async_wait_group<0>();
      __syncthreads();  // H1: Q is here
      unroll<0, C::kHeadDim / 16>([&](auto i) { load_queries<C, i>(rQ[i], sQ); });
      __syncthreads();  // H2: Q is no longer read
    }
    if constexpr (C::kGather) {
      keys.copy_first(p, smem, wK, wV, tile);
      edge = true;
    } else {
      keys.copy_first(wK, wV, keys_left - row, edges);
    }
    ptx::cp_async_commit_group();
    const int first_row = warp * C::kWarpRows + fragment::acc_row(lane, 0);
    last = keys_left - 1 - static_cast<int>(fragment::acc_col(lane, 0)) - (p.causal ? q_rows - 1 - first_row : 0);
  }

  // Attends to the current tile and moves on to the one before it. v_coming: `start` has seen to its V. CTA-collective.
  template <Masking kMasking>
  __device__ __forceinline__ void visit(const PrefillParams& p, typename C::Smem& smem, typename C::Output& o,
                                        SoftmaxState<C::kBlocks>& state, const Span& span, bool v_coming) {
    constexpr bool kEdge = kMasking == Masking::kEdge;
    const float scale = scale_log2<C>(p);
    typename C::Scores s;
    bool gap = false;  // whether the tile before this one lacks keys
    ptx::cp_async_wait_group<0>();
    if constexpr (C::kGather) {
      gap = __syncthreads_or(keys.absent && threadIdx.x < C::kTileK);  // H1: K[tile], offsets of tile-1. H2: V[tile+1] is no longer read
      keys.template copy_v<kEdge>(p, smem, wV, tile);
    } else {
      __syncthreads();  // H1: K[tile] is here. H2: V[tile+1] is no longer read
      if (!v_coming) keys.copy_v(wV);
    }
    ptx::cp_async_commit_group();
    score<C>(s, rQ, sQ, sK);
    if constexpr (C::kOptions) reshape<C>(p, smem, s, tile);
    if constexpr (kEdge && C::kGather) see<C>(p, smem, tile);
    if constexpr (kEdge && !C::kGather) mask_behind<C>(s, last, p.causal ? 8 : 0);
    ptx::cp_async_wait_group<0>();
    __syncthreads();  // H1: V[tile], rows' masks are here. H2: K[tile] is no longer read
    if constexpr (kEdge && C::kGather) mask_unseen<C>(s, smem);
    if constexpr (kEdge && C::kOptions) {
      if (p.mask_offsets != nullptr) clear_unseen<C>(smem, wV);
    }
    state.raise(s, scale, o);
    if constexpr (C::kGather) {
      typename Keys::Found found;
      accumulate<C>(o, state, s, scale, sV, [&] {
        if (tile > span.begin) keys.copy_k(p, smem, wK, tile - 1);
        ptx::cp_async_commit_group();
        found = keys.look_up(p, smem, tile - 2);
      });
      keys.publish(p, smem, tile - 2, found);
      --tile;
      edge = gap || tile < span.full_begin || tile >= span.full_end;
    } else {
      accumulate<C>(o, state, s, scale, sV, [&] {
        if (tile > 0) keys.copy_k(wK);
        ptx::cp_async_commit_group();
      });
      last += C::kTileK;
      --tile;
    }
  }

  // All tiles of gathered keys.
  __device__ __forceinline__ void visit_all(const PrefillParams& p, typename C::Smem& smem, typename C::Output& o,
                                            SoftmaxState<C::kBlocks>& state, const Span& span) {
    do {
      if (edge) {
        visit<Masking::kEdge>(p, smem, o, state, span, false);
      } else {
        do visit<Masking::kNone>(p, smem, o, state, span, false);
        while (!edge);
      }
    } while (tile >= span.begin);
  }

  // All tiles of ragged keys: the edges, then the others in a loop of their own.
  __device__ __forceinline__ void visit_both(const PrefillParams& p, typename C::Smem& smem, typename C::Output& o,
                                             SoftmaxState<C::kBlocks>& state, const Span& span, bool edges) {
    if (edges) {
      bool first = true;
      do {
        visit<Masking::kEdge>(p, smem, o, state, span, /*v_coming=*/first);
        first = false;
      } while (tile >= span.full_end);
    }
    while (tile >= 0) visit<Masking::kNone>(p, smem, o, state, span, /*v_coming=*/false);
  }
};

// O/l to global memory by way of the warp's rows of sQ, 16 bytes per lane; LSE. bounds: the checked ones.
template <class C>
__device__ __forceinline__ void epilogue(const PrefillParams& p, typename C::Smem& smem, typename C::Output& o,
                                         SoftmaxState<C::kBlocks>& state) {
  constexpr int kRowChunks = C::kValueBytes / swizzle::kChunkBytes;
  const uint32_t tid = ptx::reread_tid(), lane = tid % 32;
  const int warp_row = tid / 32 * C::kWarpRows;
  const int q_first = (gridDim.x - 1 - blockIdx.x) * C::kTileQ;
  const int rows = smem.bounds[1] - smem.bounds[0] - q_first - warp_row;  // how many of the warp's rows exist
  const int64_t first_row = static_cast<int64_t>(smem.bounds[0]) + q_first + warp_row;
  unsigned char* sO = smem.tiles + C::kAtQ + warp_row * C::kKeyBytes;
  if constexpr (C::kKeepQ) {
    __syncthreads();  // H3: all warps are done with K and V
  } else {
    __syncwarp();  // H3: all lanes are done with Q
  }
  if constexpr (C::kGather) {
    if (tid == 0 && blockIdx.y == 0 && smem.bad_page) report(p.status, Offence::kPageId, blockIdx.z);
  }
#pragma unroll
  for (int r = 0; r < 2 * C::kBlocks; ++r) {
    float factor = 1.0f;
    if (C::kOptions && p.sinks != nullptr) factor = state.sink(p.sinks[blockIdx.y] * kLog2E, lane % 4 == 0, r);
    const float inverse = state.finish(r) * factor;
    const uint32_t row = 16 * (r / 2) + fragment::acc_row(lane, r % 2 * 2);
#pragma unroll
    for (int j = 0; j < C::kOutCols; ++j) {
      const float* pair = &o[r / 2][j][r % 2 * 2];
      *reinterpret_cast<uint32_t*>(sO + swizzle::offset<C::kValueBytes>(row, j) + fragment::acc_col(lane, 0) * 2) =
          fragment::pack<C::kElement>(pair[0] * inverse, pair[1] * inverse);
    }
    if (p.lse != nullptr && lane % 4 == 0 && static_cast<int>(row) < rows) {  // H4
      p.lse[blockIdx.y * p.lse_stride_head + first_row + row] = state.lse(r);
    }
  }
  __syncwarp();
  char* gO = static_cast<char*>(p.out) + 2 * (first_row * p.out_stride_token + blockIdx.y * p.out_stride_head);
#pragma unroll 4
  for (int i = lane; i < C::kWarpRows * kRowChunks; i += 32) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    if (row < rows && (!C::kOptions || chunk * 8 < p.v_dim)) {  // H4, H7
      *reinterpret_cast<uint4*>(gO + 2 * row * p.out_stride_token + chunk * swizzle::kChunkBytes) =
          *reinterpret_cast<const uint4*>(sO + swizzle::offset<C::kValueBytes>(row, chunk));
    }
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void flash_prefill(const PrefillParams& p) {
  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  typename C::Smem& smem = *reinterpret_cast<typename C::Smem*>(dynamic_smem);

  const Sequence seq = checked_sequence<C>(p, smem.bounds);
  if constexpr (C::kGather) inspect<C>(p, smem, seq);
  const int q_first = (gridDim.x - 1 - blockIdx.x) * C::kTileQ;  // late causal tiles are the heaviest: they go first
  if (q_first >= seq.q_len) return;                              // H6: the same in the whole CTA
  Span span;
  if constexpr (C::kGather) {
    span = survey<C>(p, smem, seq, q_first);
  } else {
    span = ragged_span<C>(p, seq, seq.q_len - q_first);
  }

  typename C::Output o = {};
  SoftmaxState<C::kBlocks> state;
  state.clear();
  if (span.end > 0) {  // H6
    Walk<C> walk;
    const bool edges = span.full_end < span.end;
    walk.start(p, smem, seq, q_first, span.end, edges);
    if constexpr (C::kGather) {
      walk.visit_all(p, smem, o, state, span);
    } else {
      walk.visit_both(p, smem, o, state, span, edges);
    }
  }
  epilogue<C>(p, smem, o, state);
}

}  // namespace prefill
