// Arguments of the kv_copy entry, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"

// The first bytes of so many caches.
struct CopyBases {
  uint64_t at[32];
};

// Pages are copied from page pairs[i][0] of from.at[j] to page pairs[i][1] of to.at[j], for every pair i and cache j.
#define COPY_PARAMS_FIELDS(X)                                                                               \
  X(CopyBases, from)                                                                                        \
  X(CopyBases, to)                                                                                          \
  X(const void*, pairs)             /* [num_pairs, 2]; not trusted */                                       \
  X(Status*, status)                /* never null */                                                        \
  X(int64_t, from_stride)           /* bytes from page to page */                                           \
  X(int64_t, to_stride)                                                                                     \
  X(int64_t, page_bytes)                                                                                    \
  X(int32_t, pairs_are_64)          /* int64, else int32 */                                                 \
  X(int32_t, from_pages)                                                                                    \
  X(int32_t, to_pages)                                                                                      \
  X(int32_t, blocks_per_page)                                                                               \
  X(int32_t, wide)                  /* bases, strides and page_bytes are multiples of 16 */                 \
  X(int32_t, num_pairs)

struct CopyParams {
#define COPY_PARAMS_DECLARE(type, name) type name;
  COPY_PARAMS_FIELDS(COPY_PARAMS_DECLARE)
#undef COPY_PARAMS_DECLARE
};
