// flash_decode: O = softmax(f(scale·QKᵀ) + mask)·V for few query tokens per sequence and many keys in pages
//                                                                                            [Flash-Decoding, Stream-K]
//
// Options  those of prefill; see prefill.cuh
// Shapes   Q [total_q,Hq,D]  O [total_q,Hq,Dv]  LSE [Hq,total_q] f32, natural log; K, V [pages,page_size,Hkv,…]
// Rows     the pairs of query token and head of the group that share a KV head, token by token: 16 to an item. K and V are
//          read once for each item: once for each KV head if query tokens · group is at most 16
// Variants lean: causal or not, D that of the entry. full: all options, D and Dv any multiples of 8 that fit
// Grid     as many blocks as are wanted; each takes an equal share of all work, see decode_share.cuh. What it did not do
//          alone it leaves as a partial result: unscaled O, m and l. decode_merge.cuh adds them up in the order of the keys
// Block    128 threads = 4 warps. A chunk of the keys is 32 keys for each warp, D=256: 16. All warps have the same rows
// Warps    each has a ring, a state (m, l, O) and a pace of its own, no barrier in its loop; in the end the four states are
//          added up in the order of the warps
// Smem     4 rings of one K and one V tile: 4·(8+8) KiB; Q 4 KiB at D=128; lengths of 128 sequences 7 KiB
// Stages   K[j+1] arrives during the softmax and O += PV[j], V[j+1] during S = QK[j+1]ᵀ
// Swizzle  16-byte chunk c of row r lives at c ^ (r % 8) within its 128-byte line
// Regs     D=128: O 64 + Q 32 + S 16 + K or V 4 + offsets 8
// Hazards  H1 K[j], V[j] are read only after every lane's wait and a __syncwarp
//          H2 a tile is refilled only after the __syncwarp that follows its last read
//          H3 O overwrites the warp's own ring when its copies have arrived and been read; the block reads it behind a
//             barrier, and refills no ring before another
//          H4 keys that do not exist are zeros and masked; rows that do not exist are zeros and never written
//          H5 lengths, page ids and bounds come from device memory: each is loaded once in a window, checked, and only the
//             checked value is used
//          H6 barriers: every branch around one depends only on values that are the same in all threads of the CTA
//          H7 columns past D, Dv: zeros, by their copies
//          H8 0·NaN: keys that no row of the item may see are zeros, by their copies
// Numerics as prefill; partial results are f32
#pragma once

#include <cstdint>

#include "attention/decode_config.cuh"
#include "attention/decode_keys.cuh"
#include "attention/decode_params.cuh"
#include "attention/decode_result.cuh"
#include "attention/decode_share.cuh"
#include "attention/prefill.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/ptx_vector.cuh"
#include "common/softmax_state.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace decode {

// Starts the copies of the item's rows of Q.
template <class C>
__device__ __forceinline__ void copy_queries(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                             const Item& item) {
  constexpr int kRowChunks = C::kKeyBytes / swizzle::kChunkBytes;
  const int group = p.num_heads / p.num_kv_heads;
  const uint32_t sQ = ptx::shared_address(smem.queries);
#pragma unroll 1
  for (int i = threadIdx.x; i < C::kTileQ * kRowChunks; i += C::kThreads) {
    const int row = i / kRowChunks, chunk = i % kRowChunks;
    const int at = item.first_row + row, token = at / group, head = item.kv_head * group + at % group;
    const bool exists = token < seq.q_len && (!C::kOptions || chunk * 8 < p.head_dim);  // H4, H7
    const uint64_t gQ = prefill::first_row(p.q, chunk, static_cast<int64_t>(seq.q_start) + (exists ? token : 0),
                                           p.q_stride_token, head, p.q_stride_head);
    ptx::cp_async_cg_16<0, 0>(sQ + swizzle::offset<C::kKeyBytes>(row, chunk), gQ, exists ? swizzle::kChunkBytes : 0);
  }
}

// What a lane's two rows of scores, l/4 and l/4 + 8, are subject to.
struct Bias {
  float slope[2];     // of ALiBi, base 2, negative
  float position[2];  // less the lane's first column
};

template <class C>
__device__ __forceinline__ Bias bias_of(const PrefillParams& p, const Sequence& seq, const Item& item) {
  Bias bias{};
  if (!C::kOptions || p.alibi_slopes == nullptr) return bias;
  const uint32_t lane = threadIdx.x % 32;
  const int group = p.num_heads / p.num_kv_heads;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = item.first_row + fragment::acc_row(lane, 2 * h);
    if (row >= seq.q_len * group) continue;
    bias.slope[h] = -prefill::kLog2E * p.alibi_slopes[item.kv_head * group + row % group];
    bias.position[h] = static_cast<float>(row / group + seq.k_len - seq.q_len - static_cast<int>(fragment::acc_col(lane, 0)));
  }
  return bias;
}

// What soft-cap and ALiBi make of the scores of a step. With ALiBi they come out in base 2.
template <class C>
__device__ __forceinline__ void reshape(const PrefillParams& p, typename C::Scores& s, const Bias& bias, int key0) {
  constexpr int kCount = C::kKeyCols * 4;
  float* flat = &s[0][0][0];
  if (p.softcap_scale > 0.0f) {
    if (p.exact_softcap) {
      const float scale = p.softcap_scale * (2 * prefill::kLog2E);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        flat[i] = fmaf(-2.0f, ptx::rcp_approx_ftz(ptx::ex2_approx_ftz(flat[i] * scale) + 1.0f), 1.0f);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) flat[i] = ptx::tanh_approx(flat[i] * p.softcap_scale);
    }
  }
  if (p.alibi_slopes != nullptr) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float ahead = static_cast<float>(key0) - bias.position[h];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i % 4 / 2 != h) continue;
        flat[i] = fmaf(flat[i], p.scale_log2, fabsf(ahead + static_cast<float>(i / 4 * 8 + i % 2)) * bias.slope[h]);
      }
    }
  }
}

// Scores of keys that a row does not see become -∞.
template <class C>
__device__ __forceinline__ void mask_unseen(typename C::Scores& s, uint32_t seen) {
  const uint32_t lane = ptx::reread_tid() % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t row = __shfl_sync(0xffffffffu, seen, fragment::acc_row(lane, 2 * h)) >> fragment::acc_col(lane, 0);
#pragma unroll
    for (int j = 0; j < C::kKeyCols; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (!(row >> (8 * j + i) & 1)) s[0][j][2 * h + i] = -INFINITY;
  }
}

// What a warp does with the tiles of its steps. This one: elements of 16 bits.
template <class C>
struct Tiles {
  typename C::Queries rQ;
  uint32_t sQ, sK, sV;  // this lane's ldmatrix addresses

  __device__ __forceinline__ Tiles(const DecodeParams&, const Item&) {}

  // Starts to bring the item's rows of Q to shared memory. They are there behind a wait and a barrier.
  __device__ __forceinline__ void fetch(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                        const Item& item) const {
    copy_queries<C>(p, smem, seq, item);
  }
  // They are there.
  __device__ __forceinline__ void settle(typename C::Smem& smem) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    sQ = ptx::shared_address(smem.queries) +
         swizzle::offset<C::kKeyBytes>(fragment::a_row(lane), fragment::a_chunk(lane));
    if constexpr (C::kKeepQ) unroll<0, C::kHeadDim / 16>([&](auto i) { prefill::load_queries<C, i>(rQ[i], sQ); });
    sK = ptx::shared_address(smem.rings[warp].k) +
         swizzle::offset<C::kKeyBytes>(fragment::b_nk_row(lane), fragment::b_nk_chunk(lane));
    sV = ptx::shared_address(smem.rings[warp].v) +
         swizzle::offset<C::kValueBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane));
  }
  // S = Q·Kᵀ.
  __device__ __forceinline__ void score(typename C::Scores& s) const { prefill::score<C>(s, rQ, sQ, sK); }
  // O += P·V, P = 2^(S·scale - m).
  __device__ __forceinline__ void accumulate(typename C::Output& o, SoftmaxState<C::kBlocks>& state,
                                             const typename C::Scores& s, float scale) const {
    prefill::accumulate<C>(o, state, s, scale, sV, [] {});
  }

  // Eight columns of row r of O live at j ^ (r % 4): rows differ in their banks.
  static __device__ __forceinline__ void store(uint32_t sO, const typename C::Output& o) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = fragment::acc_row(lane, 2 * h);
#pragma unroll
      for (int j = 0; j < C::kOutCols; ++j) {
        const uint32_t at = row * C::kValueDim + 8 * (j ^ row % 4) + fragment::acc_col(lane, 0);
        ptx::st_shared_v2(sO + 4 * at, o[0][j][2 * h], o[0][j][2 * h + 1]);
      }
    }
  }
  // Where four columns of a row of O live.
  static __device__ __forceinline__ int quad_at(int row, int quad) {
    return row * C::kValueDim + (quad / 2 ^ row % 4) * 8 + quad % 2 * 4;
  }
  // From sums of what was stored to sums of P·V.
  __device__ __forceinline__ void complete(Sum&) const {}
  __device__ __forceinline__ void write(const PrefillParams& p, const Sum& sum, int64_t token, int head, int quad) const {
    decode::write<C::kElement>(p, sum, token, head, quad);
  }
};

// A warp's keys of an item, attended to. CTA-collective, for the sake of Q.
template <class C, class Tiles>
__device__ __forceinline__ void attend(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                       const Item& item, Tiles& tiles, typename C::Output& o,
                                       SoftmaxState<C::kBlocks>& state) {
  Keys<C> keys;
  keys.point(p, smem, seq, item);
  int key0 = keys.start(item);
  const bool works = key0 < keys.end;
  Found found = keys.look_up(p, key0);
  tiles.fetch(p, smem, seq, item);
  ptx::cp_async_commit_group();
  const Bias bias = bias_of<C>(p, seq, item);
  Step step = keys.settle(p, found, key0);
  found = keys.look_up(p, key0 + C::kChunk);
  if (works) keys.copy_k(p, step);
  ptx::cp_async_commit_group();
  if (works) keys.copy_v(p, step);
  ptx::cp_async_commit_group();

  ptx::cp_async_wait_group<2>();
  __syncthreads();
  tiles.settle(smem);
  const float scale = prefill::scale_log2<C>(p);
  while (key0 < keys.end) {
    ptx::cp_async_wait_group<1>();
    __syncwarp();  // H1: K[j]
    typename C::Scores s;
    tiles.score(s);
    __syncwarp();  // H2: K[j] is no longer read
    const int next0 = key0 + C::kChunk;
    const Step next = keys.settle(p, found, next0);
    if (next0 < keys.end) keys.copy_k(p, next);
    ptx::cp_async_commit_group();
    found = keys.look_up(p, next0 + C::kChunk);
    if constexpr (C::kOptions) reshape<C>(p, s, bias, key0);
    if (step.edge) mask_unseen<C>(s, step.seen);
    state.raise(s, scale, o);
    ptx::cp_async_wait_group<1>();
    __syncwarp();  // H1: V[j]
    tiles.accumulate(o, state, s, scale);
    __syncwarp();  // H2: V[j] is no longer read
    if (next0 < keys.end) keys.copy_v(p, next);
    ptx::cp_async_commit_group();
    step = next;
    key0 = next0;
  }
  if (keys.bad_page) report(p.status, Offence::kPageId, seq.index);
}

// The warps' states, added up, to the output or to the block's partial results.
template <class C, class Tiles>
__device__ __forceinline__ void finish(const DecodeParams& params, typename C::Smem& smem, const Sequence& seq,
                                       const Item& item, const Tiles& tiles, const typename C::Output& o,
                                       SoftmaxState<C::kBlocks>& state) {
  constexpr int kQuads = C::kValueDim / 4;  // columns are dealt with by fours
  const PrefillParams& p = params.attention;
  const uint32_t tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  Tiles::store(ptx::shared_address(&smem.rings[warp]), o);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t row = fragment::acc_row(lane, 2 * h);
    const float l = fragment::quad_sum(state.l[h]);
    if (lane % 4 == 0) {
      smem.m[warp][row] = -state.neg_m[h];
      smem.l[warp][row] = l;
    }
  }
  __syncthreads();  // H3
  const int group = p.num_heads / p.num_kv_heads, rows = seq.q_len * group;
  const bool whole = item.begins && item.ends;
  float* partial = params.partials + (2ll * blockIdx.x + item.begins) * C::kPartial;
#pragma unroll 1
  for (int i = tid; i < C::kTileQ * kQuads; i += C::kThreads) {
    const int row = i / kQuads, quad = i % kQuads, at = item.first_row + row;
    if (at >= rows) break;  // H4: and so are all behind it
    Sum sum;
#pragma unroll
    for (int w = 0; w < C::kWarps; ++w) sum.consider(smem.m[w][row]);
#pragma unroll
    for (int w = 0; w < C::kWarps; ++w) {
      const float* from = reinterpret_cast<const float*>(&smem.rings[w]);
      const float4 part = *reinterpret_cast<const float4*>(from + Tiles::quad_at(row, quad));
      sum.add(smem.m[w][row], smem.l[w][row], part);
    }
    tiles.complete(sum);
    if (!whole) {
      *reinterpret_cast<float4*>(partial + row * C::kValueDim + 4 * quad) = sum.o;
      if (quad == 0) partial[C::kTileQ * C::kValueDim + row] = sum.m;
      if (quad == 0) partial[C::kTileQ * (C::kValueDim + 1) + row] = sum.l;
    } else if (!C::kOptions || 4 * quad < p.v_dim) {  // H7
      const int64_t token = static_cast<int64_t>(seq.q_start) + at / group;
      tiles.write(p, sum, token, item.kv_head * group + at % group, quad);
    }
  }
  __syncthreads();  // H3
}

// The kernel, with tiles of which each item makes its own.
template <class C, template <class> class TilesOf, class Params>
__device__ __forceinline__ void share_out(const Params& all) {
  const DecodeParams& params = all;
  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  typename C::Smem& smem = *reinterpret_cast<typename C::Smem*>(dynamic_smem);
  const PrefillParams& p = params.attention;

  int64_t units = 0;
#pragma unroll 1
  for (int window = 0; window < p.batch; window += C::kThreads) {
    __syncthreads();
    units = tabulate<C>(params, smem, window, units, /*reports=*/blockIdx.x == 0);
  }
  const Cut cut(units, gridDim.x);
  const Share share = cut.share(blockIdx.x);
  if (threadIdx.x == 0) params.splits[blockIdx.x].parts = 0;

  int64_t at = share.begin, window_end = units;
#pragma unroll 1
  for (int window = 0; at < share.end && window < p.batch; window += C::kThreads) {
    if (p.batch > C::kThreads) {  // else the table is still there
      __syncthreads();
      window_end = tabulate<C>(params, smem, window, window == 0 ? 0 : window_end, /*reports=*/false);
    }
    while (at < share.end && at < window_end) {  // H6
      const Item item = item_at<C>(p, smem, at, share.end, window);
      const Sequence seq = smem.table[item.sequence];
      TilesOf<C> tiles(all, item);
      typename C::Output o = {};
      SoftmaxState<C::kBlocks> state;
      state.clear();
      attend<C>(p, smem, seq, item, tiles, o, state);
      finish<C>(params, smem, seq, item, tiles, o, state);
      if (item.begins && !item.ends && threadIdx.x == 0) {
        const int last = min(cut.owner(item.end - 1), static_cast<int>(gridDim.x) - 1);  // H5: lengths may have changed
        const int parts = last - static_cast<int>(blockIdx.x) + 1;
        params.splits[blockIdx.x] = {parts, seq.q_start, item.first_row, seq.q_len * (p.num_heads / p.num_kv_heads),
                                     item.kv_head};
      }
      at += item.chunks;
    }
  }
}

template <class C>
__device__ __forceinline__ void flash_decode(const DecodeParams& params) {
  share_out<C, Tiles>(params);
}

}  // namespace decode
