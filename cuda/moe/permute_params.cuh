// Arguments of moe_count and moe_place, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"

// A pair is a token and one of its slots: number token·slots + slot. `here` below is local + shared, see experts.cuh.
#define PERMUTE_PARAMS_FIELDS(X)                                                                              \
  X(const int32_t*, ids)   /* [pairs] */                                                                      \
  X(int32_t*, order)       /* [pairs]: pairs by expert, in each by number; last those without an expert here */ \
  X(int32_t*, offsets)     /* [here + 1]: where each expert's begin, and the end of the last */               \
  X(int32_t*, counts)      /* [blocks, here + 1]: pairs of each block; unused where there is one */           \
  X(Status*, status)                                                                                          \
  X(int32_t, pairs)                                                                                           \
  X(int32_t, slots)                                                                                           \
  X(int32_t, per_block)    /* pairs of a block, a multiple of 256 */                                          \
  X(int32_t, routed)                                                                                          \
  X(int32_t, shared)                                                                                          \
  X(int32_t, first)                                                                                           \
  X(int32_t, local)                                                                                           \
  X(int32_t, reserved)

struct PermuteParams {
#define PERMUTE_PARAMS_DECLARE(type, name) type name;
  PERMUTE_PARAMS_FIELDS(PERMUTE_PARAMS_DECLARE)
#undef PERMUTE_PARAMS_DECLARE
};
