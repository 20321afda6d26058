// Arguments of the entries of blocks, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "gemm/gemm_params.cuh"

// What a group of rows of a column has beside codes. Numbers are shared with the host.
enum class Kind : int32_t {
  kHalves = 0,            // an f16 for each 32 rows
  kHalvesAndOffsets = 1,  // two
  kBytes = 2,             // a signed byte for each 16 rows, with 128 added, times an f16 for each 256
  kBytesAndOffsets = 3,   // two bytes for each 32 rows, each times an f16 for each 256
};

// Weights are packed as src/blocks/layout.rs says: w and w_up of `gemm` point to codes; strides of w are not used.
#define BLOCK_PARAMS_FIELDS(X)                                \
  X(GemmParams, gemm)                                         \
  X(const void*, scales)                                      \
  X(const void*, scales_up)                                   \
  X(int32_t, kind)                                            \
  X(int32_t, zero)        /* the 4-bit code that stands for 0 */

struct BlockParams {
#define BLOCK_PARAMS_DECLARE(type, name) type name;
  BLOCK_PARAMS_FIELDS(BLOCK_PARAMS_DECLARE)
#undef BLOCK_PARAMS_DECLARE
};
