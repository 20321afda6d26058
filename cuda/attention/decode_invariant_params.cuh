// Arguments of the batch-invariant decode entries and of the entry that merges their segments, one struct by value.
// Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "attention/decode_params.cuh"

namespace decode {

// Keys that are attended to from an empty state, the first of them at a multiple of so many. The bits of every result
// depend on it. The host counts on it for the size of the workspace.
constexpr int kSegment = 512;

}  // namespace decode

// An item of which a block did only the first segments, and who did the others: the blocks behind it, as many segments
// each as their shares have.
struct SegmentSplit {
  int32_t others;     // segments that other blocks did; 0: there is no such item
  int32_t q_start;    // the sequence's first row of q
  int32_t first_row;  // the item's first row; rows are pairs of query token and head
  int32_t rows;       // of all items of this sequence and KV head: query tokens · group
  int32_t kv_head;
  int32_t each;       // segments of a share; if there are more than any item has, some such number
  int32_t longer;     // blocks before this one have one more
};

// `decode` means what it means to the other decode entries, but for its `partials`, of which a block has `places`, and its
// `splits`, which nobody reads.
#define INVARIANT_PARAMS_FIELDS(X)                                                     \
  X(DecodeParams, decode)                                                              \
  X(SegmentSplit*, splits)  /* [blocks] */                                             \
  X(int32_t, places)        /* 1 + the most segments that a block can have of an item that another one began */ \
  X(int32_t, pad)           /* zero */

struct InvariantParams {
#define INVARIANT_PARAMS_DECLARE(type, name) type name;
  INVARIANT_PARAMS_FIELDS(INVARIANT_PARAMS_DECLARE)
#undef INVARIANT_PARAMS_DECLARE
};
