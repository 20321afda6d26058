// flash_prefill: O = softmax(scale·QKᵀ + mask)·V in one pass                    [FlashAttention-2, Alg. 1]
//
// Shapes   Q,O [total_q,Hq,D]  K,V [total_k,Hkv,D]  LSE [Hq,total_q] f32, natural log; head h reads KV head h/(Hq/Hkv)
// Grid     (ceil(max_seqlen_q / Br), Hq, batch), the heaviest causal tiles first        Block 128 = 4 warps
// Tile     Br=128; Bc=64 at D=128, 96 at D=64; f16 or bf16 in, f32 accumulate
// Warps    S (Br×Bc), O (Br×D): rows 32w..32w+31 belong to warp w, as two blocks of 16; all columns
//          lane l holds rows l/4, l/4+8 of each block; columns 8j + 2(l%4) + {0,1}
// Order    key tiles from the diagonal backwards, so that the running maximum settles early: first those that need a
//          mask, then the others in a loop of their own. Tiles start at multiples of Bc keys and every row decides for
//          itself when to rescale: its bits do not depend on the batch, on its tile or on the rows beside it
// Smem     Q Br + K Bc + V Bc rows: 32+16+16 KiB at D=128, 16+12+12 at D=64, and 16 bytes of sequence bounds
// Stages   1 of K and 1 of V: V[j] arrives during S = QK[j]ᵀ, K[j-1] during O += PV[j]
// Swizzle  16-byte chunk c of row r lives at c ^ (r % 8) within its 128-byte line
// Regs     D=128: O 128 + S 64 + Q 8 + K or V 4 + m,l 8 = 212 before addressing; P replaces S as it is formed, and the
//          copies of the next K wait for the first of it: their addresses would not fit beside all of S
// Hazards  H1 K[j], V[j] are read only after every thread's copies have landed: wait, then barrier
//          H2 a buffer is refilled only after the barrier that follows its last read
//          H3 O overwrites the warp's own rows of Q: no other warp reads them, and lanes are ordered by __syncwarp
//          H4 rows past the end: keys become zeros and a mask, queries become zeros and are never written
//          H5 cu_seqlens come from device memory: each is loaded once, checked, and only the checked value is used
//          H6 barriers: every branch around one depends only on values that are the same in all threads of the CTA
// Numerics p = ex2.approx(s·scale_log2 - m) with one fused multiply-add; l sums p before it is rounded to the input
//          type for PV; O is scaled by rcp.approx(l), 1 ulp, before the only rounding to the output type. s·scale_log2
//          must stay within f32
// Nothing  to attend to (no keys, all masked, all scores -∞): O = 0, LSE = -∞. NaN scores give NaN. Keys with NaN in V
//          that a row may not see can still reach it when another row of its tile sees them (0·NaN)
#pragma once

#include <cstdint>

#include "attention/prefill_params.cuh"
#include "common/fragment.cuh"
#include "common/pipeline.cuh"
#include "common/ptx.cuh"
#include "common/softmax_state.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace prefill {

template <fragment::Element kElement_, int kHeadDim_, int kTileK_>
struct Config {
  static constexpr fragment::Element kElement = kElement_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kWarps = 4;
  static constexpr int kBlocks = 2;  // row blocks of 16 per warp: with fewer, shared memory binds
  static constexpr int kWarpRows = 16 * kBlocks;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTileQ = kWarpRows * kWarps;
  static constexpr int kTileK = kTileK_;
  static constexpr int kStages = 1;
  static constexpr int kRowBytes = kHeadDim * 2;
  static constexpr int kRowChunks = kRowBytes / swizzle::kChunkBytes;
  static constexpr int kKeyCols = kTileK / 8;   // accumulator blocks along the keys
  static constexpr int kOutCols = kHeadDim / 8;  // accumulator blocks along the head dimension
  static_assert(kRowBytes % swizzle::kLineBytes == 0, "rows are whole 128-byte lines");
  static_assert(kTileK % 16 == 0, "whole mma steps");

  struct Smem {
    unsigned char q[kTileQ * kRowBytes];
    unsigned char k[kTileK * kRowBytes];
    unsigned char v[kTileK * kRowBytes];
    int32_t bounds[4];
  };
  static constexpr uint32_t kSmemBytes = sizeof(Smem);

  using Copy = TileCopy<kThreads, kRowBytes>;
  using Scores = float[kBlocks][kKeyCols][4];
  using Output = float[kBlocks][kOutCols][4];
};

enum class Masking { kNone, kEdge };

// One sequence's checked share of the batch. q_len = 0: nothing to do.
struct Sequence {
  int q_start, q_len, k_start, k_len;
};

// Reads and checks the sequence's bounds, reporting what is wrong with them. A range of queries is accepted only if no
// earlier sequence reaches into it, whatever the others hold: two sequences never write the same row. CTA-collective.
template <class C>
__device__ __forceinline__ Sequence checked_sequence(const PrefillParams& p, int32_t (&bounds)[4]) {
  const int b = blockIdx.z;
  if (threadIdx.x == 0) {  // H5: one load each, for all threads
    bounds[0] = p.cu_seqlens_q[b];
    bounds[1] = p.cu_seqlens_q[b + 1];
    bounds[2] = p.cu_seqlens_k[b];
    bounds[3] = p.cu_seqlens_k[b + 1];
  }
  __syncthreads();
  const int q_start = bounds[0], q_end = bounds[1], k_start = bounds[2], k_end = bounds[3];
  bool overlaps = false;
#pragma unroll 1
  for (int i = threadIdx.x; i < b; i += C::kThreads) {
    const int earlier = p.cu_seqlens_q[i];
    overlaps |= earlier > q_start || (i == 0 && earlier < 0);
  }
  const bool bad_q = __syncthreads_or(overlaps) || q_start < 0 || q_end < q_start || q_end > p.total_q;
  const bool too_long = !bad_q && q_end - q_start > p.max_seqlen_q;
  const bool bad_k = k_start < 0 || k_end < k_start || k_end > p.total_k;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    if (bad_q) report(p.status, Offence::kSeqLensQ, b);
    if (too_long) report(p.status, Offence::kSeqLenTooLong, b);
    if (bad_k) report(p.status, Offence::kSeqLensK, b);
  }
  return {ptx::shfl_first(q_start), ptx::shfl_first(bad_q || too_long ? 0 : q_end - q_start),
          ptx::shfl_first(k_start), ptx::shfl_first(bad_k ? 0 : k_end - k_start)};
}

// S = Q·Kᵀ for the warp's rows and the tile's keys. sQ, sK: this lane's ldmatrix addresses.
template <class C>
__device__ __forceinline__ void score(typename C::Scores& s, uint32_t sQ, uint32_t sK) {
  unroll<0, C::kHeadDim / 16>([&](auto i) {
    constexpr int d = swizzle::pair<C::kRowBytes>(i);
    uint32_t rQ[C::kBlocks][4];
    unroll<0, C::kBlocks>([&](auto b) {
      ptx::ldmatrix_x4<swizzle::immediate<C::kRowBytes>(d, b)>(rQ[b], swizzle::turn(sQ, d));
    });
    unroll<0, C::kKeyCols / 2>([&](auto j) {
      uint32_t rK[4];
      ptx::ldmatrix_x4<swizzle::immediate<C::kRowBytes>(d, j)>(rK, swizzle::turn(sK, d));
#pragma unroll
      for (int b = 0; b < C::kBlocks; ++b) {
        if constexpr (i == 0) {
          fragment::mma_from_zero<C::kElement>(s[b][2 * j], rQ[b], rK[0], rK[1]);
          fragment::mma_from_zero<C::kElement>(s[b][2 * j + 1], rQ[b], rK[2], rK[3]);
        } else {
          fragment::mma<C::kElement>(s[b][2 * j], rQ[b], rK[0], rK[1]);
          fragment::mma<C::kElement>(s[b][2 * j + 1], rQ[b], rK[2], rK[3]);
        }
      }
    });
  });
}

// Scores of keys past a row's last become -∞. last: the last key that the lane's first row sees, relative to the
// lane's first column of the tile; row_step: how many keys further each eight rows down see.
template <class C>
__device__ __forceinline__ void mask(typename C::Scores& s, int last, int row_step) {
#pragma unroll
  for (int b = 0; b < C::kBlocks; ++b)
#pragma unroll
    for (int j = 0; j < C::kKeyCols; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (8 * j + i % 2 > last + (2 * b + i / 2) * row_step) s[b][j][i] = -INFINITY;
}

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
      constexpr int j = swizzle::pair<C::kRowBytes>(i);
      uint32_t rV[4];
      ptx::ldmatrix_x4_trans<swizzle::immediate<C::kRowBytes>(j, k)>(rV, swizzle::turn(sV, j));
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
  using Copy = typename C::Copy;

  int tile;                // the tile to visit next
  uint64_t gK, gV;         // this thread's next chunk of K, of V to copy
  int64_t k_back, v_back;  // bytes from one of its rows to the one before
  uint32_t wK, wV;         // where it copies a tile to
  uint32_t sQ, sK, sV;     // this lane's ldmatrix addresses
  int last;                // see `mask`

  // Points to tile `tiles - 1` and starts the copies of Q, of that tile's K and, if `edges`, of its V: an edge may lack
  // rows, which is dealt with here, so that no loop has to.
  __device__ __forceinline__ void start(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                        int q_first, int tiles, bool edges) {
    const uint32_t tid = threadIdx.x, lane = tid % 32, warp = ptx::shfl_first(static_cast<int>(tid / 32));
    const uint32_t head = blockIdx.y, kv_head = head / (p.num_heads / p.num_kv_heads);
    const int row = Copy::row(tid), q_rows = seq.q_len - q_first;
    const uint32_t chunk_bytes = Copy::chunk(tid) * swizzle::kChunkBytes;
    tile = tiles - 1;

    // Row 0 of the CTA's queries and of the sequence's keys, then this thread's last row of the tile.
    const uint64_t gQ0 =
        ptx::global_address(p.q) + chunk_bytes +
        2 * ((static_cast<int64_t>(seq.q_start) + q_first) * p.q_stride_token + head * p.q_stride_head);
    const uint64_t gK0 = ptx::global_address(p.k) + chunk_bytes +
                         2 * (seq.k_start * p.k_stride_token + kv_head * p.k_stride_head);
    const uint64_t gV0 = ptx::global_address(p.v) + chunk_bytes +
                         2 * (seq.k_start * p.v_stride_token + kv_head * p.v_stride_head);
    const int64_t last_key = static_cast<int64_t>(tile) * C::kTileK + (C::kTileK - Copy::kStep + row);
    uint64_t gQ = gQ0 + 2 * (C::kTileQ - Copy::kStep + row) * p.q_stride_token;
    gK = gK0 + 2 * last_key * p.k_stride_token;
    gV = gV0 + 2 * last_key * p.v_stride_token;
    k_back = -2 * Copy::kStep * p.k_stride_token;
    v_back = -2 * Copy::kStep * p.v_stride_token;

    const uint32_t base_q = ptx::shared_address(smem.q);
    const uint32_t base_k = ptx::shared_address(smem.k), base_v = ptx::shared_address(smem.v);
    wK = base_k + Copy::offset(tid);
    wV = base_v + Copy::offset(tid);
    sQ = base_q + warp * C::kWarpRows * C::kRowBytes +
         swizzle::offset<C::kRowBytes>(fragment::a_row(lane), fragment::a_chunk(lane));
    sK = base_k + swizzle::offset<C::kRowBytes>(fragment::b_nk_row(lane), fragment::b_nk_chunk(lane));
    sV = base_v + swizzle::offset<C::kRowBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane));

    const int keys_left = seq.k_len - tile * C::kTileK;
    Copy::template bounded<C::kTileQ>(base_q + Copy::offset(tid), gQ, -2 * Copy::kStep * p.q_stride_token,
                                      q_rows - row, gQ0);                                // H4
    Copy::template bounded<C::kTileK>(wK, gK, k_back, keys_left - row, gK0);             // H4
    if (edges) Copy::template bounded<C::kTileK>(wV, gV, v_back, keys_left - row, gV0);  // H4
    ptx::cp_async_commit_group();

    const int first_row = warp * C::kWarpRows + fragment::acc_row(lane, 0);
    last = keys_left - 1 - static_cast<int>(fragment::acc_col(lane, 0)) - (p.causal ? q_rows - 1 - first_row : 0);
  }

  // Attends to the current tile and moves on to the one before it. v_coming: `start` has seen to its V. CTA-collective.
  template <Masking kMasking>
  __device__ __forceinline__ void visit(const PrefillParams& p, typename C::Output& o,
                                        SoftmaxState<C::kBlocks>& state, bool v_coming) {
    typename C::Scores s;
    ptx::cp_async_wait_group<0>();
    __syncthreads();  // H1: K[tile] is here. H2: V[tile+1] is no longer read
    if (!v_coming) Copy::template full<C::kTileK>(wV, gV, v_back);
    ptx::cp_async_commit_group();
    score<C>(s, sQ, sK);
    if (kMasking == Masking::kEdge) mask<C>(s, last, p.causal ? 8 : 0);
    ptx::cp_async_wait_group<0>();
    __syncthreads();  // H1: V[tile] is here. H2: K[tile] is no longer read
    state.raise(s, p.scale_log2, o);
    accumulate<C>(o, state, s, p.scale_log2, sV, [&] {
      if (tile > 0) Copy::template full<C::kTileK>(wK, gK, k_back);
      ptx::cp_async_commit_group();
    });
    last += C::kTileK;
    --tile;
  }
};

// O/l to global memory by way of the warp's rows of sQ, 16 bytes per lane; LSE. bounds: the checked ones.
template <class C>
__device__ __forceinline__ void epilogue(const PrefillParams& p, typename C::Smem& smem, typename C::Output& o,
                                         SoftmaxState<C::kBlocks>& state) {
  const uint32_t tid = ptx::reread_tid(), lane = tid % 32;
  const int warp_row = tid / 32 * C::kWarpRows;
  const int q_first = (gridDim.x - 1 - blockIdx.x) * C::kTileQ;
  const int rows = smem.bounds[1] - smem.bounds[0] - q_first - warp_row;  // how many of the warp's rows exist
  const int64_t first_row = static_cast<int64_t>(smem.bounds[0]) + q_first + warp_row;
  unsigned char* sO = smem.q + warp_row * C::kRowBytes;
  __syncwarp();  // H3: all lanes are done with Q
#pragma unroll
  for (int r = 0; r < 2 * C::kBlocks; ++r) {
    const float inverse = state.finish(r);
    const uint32_t row = 16 * (r / 2) + fragment::acc_row(lane, r % 2 * 2);
#pragma unroll
    for (int j = 0; j < C::kOutCols; ++j) {
      const float* pair = &o[r / 2][j][r % 2 * 2];
      *reinterpret_cast<uint32_t*>(sO + swizzle::offset<C::kRowBytes>(row, j) + fragment::acc_col(lane, 0) * 2) =
          fragment::pack<C::kElement>(pair[0] * inverse, pair[1] * inverse);
    }
    if (p.lse != nullptr && lane % 4 == 0 && static_cast<int>(row) < rows) {  // H4
      p.lse[blockIdx.y * p.lse_stride_head + first_row + row] = state.lse(r);
    }
  }
  __syncwarp();
  char* gO = static_cast<char*>(p.out) + 2 * (first_row * p.out_stride_token + blockIdx.y * p.out_stride_head);
#pragma unroll 4
  for (int i = lane; i < C::kWarpRows * C::kRowChunks; i += 32) {
    const int row = i / C::kRowChunks, chunk = i % C::kRowChunks;
    if (row < rows) {  // H4
      *reinterpret_cast<uint4*>(gO + 2 * row * p.out_stride_token + chunk * swizzle::kChunkBytes) =
          *reinterpret_cast<const uint4*>(sO + swizzle::offset<C::kRowBytes>(row, chunk));
    }
  }
}

// The kernel.
template <class C>
__device__ __forceinline__ void flash_prefill(const PrefillParams& p) {
  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  typename C::Smem& smem = *reinterpret_cast<typename C::Smem*>(dynamic_smem);

  const Sequence seq = checked_sequence<C>(p, smem.bounds);
  const int q_first = (gridDim.x - 1 - blockIdx.x) * C::kTileQ;  // late causal tiles are the heaviest: they go first
  if (q_first >= seq.q_len) return;                              // H6: the same in the whole CTA
  const int q_rows = seq.q_len - q_first;

  // Row i sees the keys up to k_len - 1 + (i + 1 - q_len): differences of lengths, which cannot overflow.
  const int unseen = p.causal ? max(q_rows - C::kTileQ, 0) : 0;  // trailing keys that no row of the tile sees
  const int unshared = p.causal ? q_rows - 1 : 0;                // trailing keys that its first row does not see
  const int tiles = seq.k_len > unseen ? (seq.k_len - unseen - 1) / C::kTileK + 1 : 0;
  const int full_tiles = max(seq.k_len - unshared, 0) / C::kTileK;

  typename C::Output o = {};
  SoftmaxState<C::kBlocks> state;
  state.clear();
  if (tiles > 0) {  // H6
    Walk<C> walk;
    const bool edges = full_tiles < tiles;
    walk.start(p, smem, seq, q_first, tiles, edges);
    if (edges) {
      bool first = true;
      do {
        walk.template visit<Masking::kEdge>(p, o, state, /*v_coming=*/first);
        first = false;
      } while (walk.tile >= full_tiles);
    }
    while (walk.tile >= 0) walk.template visit<Masking::kNone>(p, o, state, /*v_coming=*/false);
  }
  epilogue<C>(p, smem, o, state);
}

}  // namespace prefill
