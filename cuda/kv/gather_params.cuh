// Arguments of the kv_gather entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"
#include "kv/gather_part.cuh"

// Keys and values.
struct GatherParts {
  GatherPart of[2];
};

// page_table [batch, page_table_stride], of which page_table_len columns count, or with page_indptr [batch + 1] one list,
// [page_table_len].
#define GATHER_PARAMS_FIELDS(X)                                                                             \
  X(GatherParts, parts)                                                                                     \
  X(const int32_t*, cu_seqlens)     /* [batch + 1], rows of the output; not trusted */                      \
  X(const uint32_t*, page_table)    /* not trusted */                                                       \
  X(const int32_t*, page_indptr)    /* or null; not trusted */                                              \
  X(Status*, status)                /* never null */                                                        \
  X(int64_t, page_table_stride)                                                                             \
  X(int32_t, page_table_len)                                                                                \
  X(int32_t, batch)                                                                                         \
  X(int32_t, tokens)                                                                                        \
  X(int32_t, passes)                /* of both parts; times the splits within 32 bits */                    \
  X(int32_t, page_size)                                                                                     \
  X(int32_t, num_pages)

struct GatherParams {
#define GATHER_PARAMS_DECLARE(type, name) type name;
  GATHER_PARAMS_FIELDS(GATHER_PARAMS_DECLARE)
#undef GATHER_PARAMS_DECLARE
};
