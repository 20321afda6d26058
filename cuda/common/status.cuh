// What a launch skipped because device memory held values that it may not trust.
//
// The caller owns one Status per stream (or per launch) and zeroes it; kernels only ever add to it. The result does
// not depend on the order in which CTAs report.
#pragma once

#include <cstdint>

#include "common/ptx.cuh"

// Kind of offence: bit number in Status::bits. `index` below is the sequence's number within the batch.
enum class Offence : uint32_t {
  kSeqLensQ = 0,       // cu_seqlens_q: entry out of order or out of range; the sequence is skipped
  kSeqLensK = 1,       // cu_seqlens_k, seqlens_k: entry out of order or out of range; the sequence has no keys
  kSeqLenTooLong = 2,  // more queries than max_seqlen_q promised; the sequence is skipped
  kPageRange = 3,      // page_indptr: entry out of order or out of range, then the sequence has no pages; or it has
                       // fewer pages than its keys need. Keys without a page are absent
  kPageId = 4,         // page id out of range, of a page with keys that some query may see; they are absent
  kMask = 5,           // mask_offsets: entry out of order or out of range, or too few bits; the sequence has no keys
};

struct alignas(8) Status {
  uint32_t bits;   // 1 << kind of every offence seen
  uint32_t pad;    // zero
  uint64_t first;  // ~(kind << 56 | index) of the lowest kind, then lowest index; 0: none
};
static_assert(sizeof(Status) == 16, "mirrored by the host");

__device__ __forceinline__ void report(Status* status, Offence kind, uint64_t index) {
  ptx::red_or_b32(&status->bits, 1u << static_cast<uint32_t>(kind));
  ptx::red_max_u64(&status->first, ~(static_cast<uint64_t>(kind) << 56 | index));
}
