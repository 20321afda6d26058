// flash_mla: multi-head latent attention of few query tokens per sequence, absorbed form: every head attends to the same
// latents and rotary keys                              [DeepSeek-V2 §2.1; Flash-Decoding; FlashMLA for the arithmetic]
//
//   S = scale·(Q_latent·Cᵀ + Q_rope·Rᵀ)   O = softmax(S + mask)·C
//
// Shapes   Q [total_q,H,512] and [total_q,H,64]  O [total_q,H,512]  LSE [H,total_q] f32, natural log
//          C [pages,page_size,512]  R [pages,page_size,64]; any strides, so that C and R may be parts of the same rows
// Rows     the pairs of query token and head, token by token: 64 or 16 to an item. A latent is read once for each item
// Grid     as many blocks as are wanted; each takes an equal share of all work, see decode_share.cuh. What it did not do
//          alone it leaves as a partial result: unscaled O, m and l. mla_merge.cuh adds them up in the order of the keys
// Block    256 threads = 8 warps, one block to a multiprocessor. A step is 32 tokens
// Warps    S of 64 rows: 2 halves of the rows, 4 parts of the depth 576, all tokens; of 16 rows: 2 halves of the tokens, 4
//          parts of the depth. The parts meet in shared memory, where four (sixteen) neighbouring threads take a row
//          through the softmax. O: all rows, 64 columns to each warp, so that each latent is read once as a value
// Smem     Q 72 + 2 stages × 36 + S 16 = 160 KiB; 16 rows: Q 18 + 72 + S 8 = 98 KiB, which every GPU since sm_80 has.
//          Tables of lengths come first, in the same place: a few items are looked up at a time
// Stages   2: step j+1 arrives during all of step j. V is the latents of K: no second copy
// Swizzle  16-byte chunk c of row r lives at c ^ (r % 8) within its 128-byte line; S and P: see mla_scores.cuh
// Regs     O 128 + S 32 + Q 8 + K 4, or O 128 + P 16 + C 4; 16 rows: O 32
// Hazards  H1 a step is read only after every thread's wait and a barrier
//          H2 a stage is refilled only after the barrier that follows its last read
//          H3 P overwrites the step's rotary keys, the output its latents, tables and tiles each other: each behind a
//             barrier that follows the last read
//          H4 tokens that do not exist are zeros and masked; rows that do not exist are zeros and never written
//          H5 lengths, page ids and bounds come from device memory: each is loaded once in a window, checked, and only the
//             checked value is used
//          H6 barriers: every branch around one depends only on values that are the same in all threads of the CTA
//          H7 0·NaN: tokens that no row of the item may see are zeros, by their copies
// Numerics as prefill; S is the sum of four parts, each f32 in the order of the depth; partial results are f32
// Nothing  to attend to: O = 0, LSE = -∞. NaN scores give NaN
#pragma once

#include <cstdint>

#include "attention/decode_share.cuh"
#include "attention/mla_config.cuh"
#include "attention/mla_keys.cuh"
#include "attention/mla_params.cuh"
#include "attention/mla_scores.cuh"
#include "common/fragment.cuh"
#include "common/ptx.cuh"
#include "common/ptx_use.cuh"
#include "common/swizzle.cuh"
#include "common/unroll.cuh"

namespace mla {

// O *= the factors of its rows.
template <class C>
__device__ __forceinline__ void rescale(const typename C::Smem& smem, typename C::Output& o) {
  const uint32_t lane = ptx::reread_tid() % 32;
#pragma unroll
  for (int r = 0; r < 2 * C::kOutBlocks; ++r) {
    const float factor = smem.factor[r / 2 * 16 + fragment::acc_row(lane, r % 2 * 2)];
#pragma unroll
    for (int j = 0; j < C::kOutCols; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) o[r / 2][j][r % 2 * 2 + i] *= factor;
  }
}

// O += P·C, the warp's 64 columns.
template <class C>
__device__ __forceinline__ void accumulate(const typename C::Smem& smem, typename C::Output& o, int stage) {
  const uint32_t tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const auto& keys = smem.work.keys[stage];
  const uint32_t sP = ptx::shared_address(keys.rope) +
                      swizzle::offset<C::kWeightBytes>(fragment::a_row(lane), fragment::a_chunk(lane));
  const uint32_t sC = ptx::shared_address(keys.latent) + warp * 128 +
                      swizzle::offset<C::kLatentBytes>(fragment::b_kn_row(lane), fragment::b_kn_chunk(lane));
  unroll<0, C::kTileK / 16>([&](auto k) {
    uint32_t rP[C::kOutBlocks][4];
    unroll<0, C::kOutBlocks>([&](auto b) {
      ptx::ldmatrix_x4<swizzle::immediate<C::kWeightBytes>(k, b)>(rP[b], swizzle::turn<C::kWeightBytes>(sP, k));
    });
    unroll<0, C::kOutCols / 2>([&](auto j) {
      uint32_t rC[4];
      ptx::ldmatrix_x4_trans<swizzle::immediate<C::kLatentBytes>(j, k)>(rC, swizzle::turn<C::kLatentBytes>(sC, j));
#pragma unroll
      for (int b = 0; b < C::kOutBlocks; ++b) {
        fragment::mma<C::kElement>(o[b][2 * j], rP[b], rC[0], rC[1]);
        fragment::mma<C::kElement>(o[b][2 * j + 1], rP[b], rC[2], rC[3]);
      }
    });
  });
}

// An item's tokens, attended to. CTA-collective; shared memory is free before.
template <class C>
__device__ __forceinline__ void attend(const MlaParams& params, typename C::Smem& smem, const Sequence& seq,
                                       const Item& item, typename C::Output& o, RowState<C>& state) {
  const PrefillParams& p = params.decode.attention;
  Keys<C> keys;
  keys.point(p, seq, item);
  state.start(p, seq, item);
  int key0 = item.chunk * C::kChunk, stage = 0;
  const Found first = keys.look_up(p, key0);
  copy_queries<C>(params, smem, seq, item);
  keys.copy(p, smem, first, 0);
  ptx::cp_async_commit_group();
  Found found = keys.look_up(p, key0 + C::kChunk);
#pragma unroll 1
  for (; key0 < keys.end; key0 += C::kChunk) {  // H6
    ptx::cp_async_wait_group<0>();
    const bool gap = __syncthreads_or(!keys.there);  // H1: the step. H2: the one before is no longer read
    if (key0 + C::kChunk < keys.end) keys.copy(p, smem, found, stage ^ 1);
    ptx::cp_async_commit_group();
    found = keys.look_up(p, key0 + 2 * C::kChunk);
    score<C>(smem, stage);
    __syncthreads();  // H1: S. H3: rotary keys are no longer read
    const bool raised = state.weigh(smem, p.scale_log2, stage, key0, gap || key0 + C::kChunk > keys.full_end);
    if (__syncthreads_or(raised)) rescale<C>(smem, o);  // H1: P and factors
    accumulate<C>(smem, o, stage);
    stage ^= 1;
  }
  if (keys.bad_page && threadIdx.x % 8 == 0) report(p.status, Offence::kPageId, seq.index);
}

// O/l and LSE, to the output. CTA-collective; m and l are there, and the tiles no longer read.
template <class C>
__device__ __forceinline__ void write_output(const PrefillParams& p, typename C::Smem& smem, const Sequence& seq,
                                             const Item& item, const typename C::Output& o) {
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, rows = seq.q_len * p.num_heads;
  unsigned char* sO = reinterpret_cast<unsigned char*>(smem.work.keys) + warp * (C::kTileQ * 128);
#pragma unroll
  for (int r = 0; r < 2 * C::kOutBlocks; ++r) {
    const uint32_t row = r / 2 * 16 + fragment::acc_row(lane, r % 2 * 2);
    const float l = smem.l[row], inverse = l == 0.0f ? 0.0f : ptx::rcp_approx_ftz(l);
#pragma unroll
    for (int j = 0; j < C::kOutCols; ++j) {
      const float* pair = &o[r / 2][j][r % 2 * 2];
      *reinterpret_cast<uint32_t*>(sO + swizzle::offset<128>(row, j) + fragment::acc_col(lane, 0) * 2) =
          fragment::pack<C::kElement>(pair[0] * inverse, pair[1] * inverse);
    }
  }
  __syncwarp();
#pragma unroll 1
  for (int row = lane / 8; row < C::kTileQ && item.first_row + row < rows; row += 4) {  // H4
    const int at = item.first_row + row, head = at % p.num_heads;
    const int64_t token = static_cast<int64_t>(seq.q_start) + at / p.num_heads;
    char* gO = static_cast<char*>(p.out) + 2 * (token * p.out_stride_token + head * p.out_stride_head);
    *reinterpret_cast<uint4*>(gO + warp * 128 + lane % 8 * swizzle::kChunkBytes) =
        *reinterpret_cast<const uint4*>(sO + swizzle::offset<128>(row, lane % 8));
  }
  const int at = item.first_row + tid;
  if (p.lse != nullptr && tid < C::kTileQ && at < rows) {
    const int64_t token = static_cast<int64_t>(seq.q_start) + at / p.num_heads;
    const float l = smem.l[tid];
    p.lse[at % p.num_heads * p.lse_stride_head + token] =
        l == 0.0f ? -INFINITY : (ptx::lg2_approx_ftz(l) + smem.m[tid]) * SoftmaxState<1>::kLn2;
  }
}

// Unscaled O, m and l, to the block's partial results. CTA-collective, as `write_output`.
template <class C>
__device__ __forceinline__ void write_partial(float* partial, const PrefillParams& p, const typename C::Smem& smem,
                                              const Sequence& seq, const Item& item, const typename C::Output& o) {
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, rows = seq.q_len * p.num_heads - item.first_row;
#pragma unroll
  for (int r = 0; r < 2 * C::kOutBlocks; ++r) {
    const int row = r / 2 * 16 + fragment::acc_row(lane, r % 2 * 2);
    float* to = partial + row * C::kLatentDim + warp * 64 + fragment::acc_col(lane, 0);
    if (row >= rows) continue;  // H4
#pragma unroll
    for (int j = 0; j < C::kOutCols; ++j) {  // four lanes fill a sector
      const float* pair = &o[r / 2][j][r % 2 * 2];
      *reinterpret_cast<float2*>(to + 8 * j) = make_float2(pair[0], pair[1]);
    }
  }
  if (tid < C::kTileQ && tid < rows) {
    partial[C::kTileQ * C::kLatentDim + tid] = smem.m[tid];
    partial[C::kTileQ * (C::kLatentDim + 1) + tid] = smem.l[tid];
  }
}

// One block's part of an item. CTA-collective; shared memory is free before and behind.
template <class C>
__device__ __forceinline__ void work(const MlaParams& params, typename C::Smem& smem, const Sequence& seq,
                                     const Item& item) {
  const PrefillParams& p = params.decode.attention;
  typename C::Output o = {};
  RowState<C> state;
  attend<C>(params, smem, seq, item, o, state);
  state.publish(smem);
  ptx::cp_async_wait_group<0>();  // of an item without tokens, Q
  __syncthreads();                // H3; m and l
  if (item.begins && item.ends) {
    write_output<C>(p, smem, seq, item, o);
  } else {
    write_partial<C>(params.decode.partials + (2ll * blockIdx.x + item.begins) * C::kPartial, p, smem, seq, item, o);
  }
  __syncthreads();  // H3
}

// See `use`: what stands between the page size and the length of the table.
__device__ __forceinline__ void use_all_of_pages(const PrefillParams& p) {
  ptx::use(p.page_reciprocal);
  ptx::use(p.num_pages);
}

// Looks up the next few items, and says how many: none behind the last. CTA-collective; shared memory is free.
template <class C>
__device__ __forceinline__ int find_items(const DecodeParams& params, typename C::Smem& smem) {
  const PrefillParams& p = params.attention;
  Progress progress = smem.progress;
  int count = 0;
  while (count == 0 && progress.at < progress.end && progress.window < p.batch) {  // H6
    __syncthreads();
    if (threadIdx.x == 0) smem.floor = progress.floor;
    __syncthreads();
    use_all_of_pages(p);
    const int64_t window_end = decode::tabulate<C>(params, smem, progress.window, progress.before, /*reports=*/false);
    for (; count < C::kAhead && progress.at < progress.end && progress.at < window_end; ++count) {
      const Item item = decode::item_at<C>(p, smem, progress.at, progress.end, progress.window);
      if (threadIdx.x == 0) {
        smem.items[count] = item;
        smem.sequences[count] = smem.table[item.sequence];
      }
      progress.at += item.chunks;
      __syncthreads();
    }
    if (progress.at < window_end) break;
    progress.window += C::kThreads;
    progress.before = window_end;
    progress.floor = smem.floor;
  }
  __syncthreads();  // H3
  if (threadIdx.x == 0) smem.progress = progress;
  return count;
}

// The kernel.
template <class C>
__device__ __forceinline__ void flash_mla(const MlaParams& params) {
  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  typename C::Smem& smem = *reinterpret_cast<typename C::Smem*>(dynamic_smem);
  const DecodeParams& shared = params.decode;
  const PrefillParams& p = shared.attention;

  if (threadIdx.x == 0) smem.floor = 0;
  int64_t units = 0;
#pragma unroll 1
  for (int window = 0; window < p.batch; window += C::kThreads) {
    __syncthreads();
    use_all_of_pages(p);
    units = decode::tabulate<C>(shared, smem, window, units, /*reports=*/blockIdx.x == 0);
  }
  if (threadIdx.x == 0) {
    const decode::Share share = decode::Cut(units, gridDim.x).share(blockIdx.x);
    smem.progress = {units, share.begin, share.end, 0, 0, 0};
    shared.splits[blockIdx.x].parts = 0;
  }
  __syncthreads();

  while (const int count = find_items<C>(shared, smem)) {  // H6
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const Item& item = smem.items[i];
      const Sequence& seq = smem.sequences[i];
      work<C>(params, smem, seq, item);
      if (item.begins && !item.ends && threadIdx.x == 0) {
        const int owner = decode::Cut(smem.progress.units, gridDim.x).owner(item.end - 1);
        const int last = min(owner, static_cast<int>(gridDim.x) - 1);  // H5: lengths may have changed
        shared.splits[blockIdx.x] = {last - static_cast<int>(blockIdx.x) + 1, seq.q_start, item.first_row,
                                     seq.q_len * p.num_heads, item.kv_head};
      }
    }
    __syncthreads();
  }
}

}  // namespace mla
