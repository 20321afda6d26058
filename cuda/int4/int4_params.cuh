// Arguments of the INT4 entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "gemm/gemm_params.cuh"

// Weights are packed as src/int4/layout.rs says: w and w_up of `gemm` point to codes; strides of w are not used.
#define INT4_PARAMS_FIELDS(X)                                                      \
  X(GemmParams, gemm)                                                              \
  X(const uint16_t*, scales)     /* [groups][n padded to 32], of x's type */       \
  X(const uint16_t*, scales_up)                                                    \
  X(const uint16_t*, zeros)      /* four nibbles each; null: all are 8 */          \
  X(const uint16_t*, zeros_up)                                                     \
  X(int32_t, groups_per_tile)    /* of 64 rows: 1, 2 or 4 */                       \
  X(int32_t, tiles_per_group)    /* or, where groups are longer, the inverse; else 1 */

struct Int4Params {
#define INT4_PARAMS_DECLARE(type, name) type name;
  INT4_PARAMS_FIELDS(INT4_PARAMS_DECLARE)
#undef INT4_PARAMS_DECLARE
};
