// Arguments of the decode entries and of the entry that merges their splits, one struct by value. Mirrored by the host;
// the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "attention/prefill_params.cuh"

// An item of which a block did only the beginning, and who did the rest.
struct Split {
  int32_t parts;      // how many blocks, this one and those behind it, each have a part of the item; 0: there is none
  int32_t q_start;    // the sequence's first row of q
  int32_t first_row;  // the item's first row; rows are pairs of query token and head
  int32_t rows;       // of all items of this sequence and KV head: query tokens · group
  int32_t kv_head;
};

// `attention` means what it means to prefill, of paged keys, except that cu_seqlens_q may be null: sequence b then has the
// `q_len` rows from b·q_len on, and total_q is batch·q_len.
#define DECODE_PARAMS_FIELDS(X)                                                                             \
  X(PrefillParams, attention)                                                                               \
  X(float*, partials)     /* [2·blocks][16·(partial_dim + 2)]: unscaled O, row by row, then m, then l, of 16 rows */ \
  X(Split*, splits)       /* [blocks] */                                                                    \
  X(int32_t, q_len)       /* see above */                                                                   \
  X(int32_t, partial_dim) /* columns of a partial O: v_dim of the decode entry, not of the values */

struct DecodeParams {
#define DECODE_PARAMS_DECLARE(type, name) type name;
  DECODE_PARAMS_FIELDS(DECODE_PARAMS_DECLARE)
#undef DECODE_PARAMS_DECLARE
};
