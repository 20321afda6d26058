// Arguments of the kv_append entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"
#include "kv/append_part.cuh"

// Queries, keys and values. One that is not wanted has no passes.
struct AppendParts {
  AppendPart of[3];
};

// How the elements of a row are paired for rotation. Numbers are shared with the host.
enum class Pairing : int32_t {
  kHalves = 0,          // i and i + rotary_dim / 2, which is a multiple of 8
  kUnevenHalves = 1,    // the same, of any even rotary_dim
  kInterleaved = 2      // 2i and 2i + 1
};

#define APPEND_PARAMS_FIELDS(X)                                                                             \
  X(AppendParts, parts)                                                                                     \
  X(const void*, slots)             /* [tokens], page·page_size + offset; not trusted; null: no part is in pages */ \
  X(const void*, positions)         /* [tokens]; not trusted; null: nothing rotates */                      \
  X(const void*, cosines)           /* [max_position, rotary_dim / 2] */                                    \
  X(const void*, sines)             /* the same */                                                          \
  X(Status*, status)                /* never null */                                                        \
  X(int64_t, cosines_stride)                                                                                \
  X(int64_t, sines_stride)                                                                                  \
  X(int32_t, tokens)                                                                                        \
  X(int32_t, passes)                /* of all parts; times the splits within 32 bits */                         \
  X(int32_t, num_slots)             /* pages · page_size */                                                 \
  X(int32_t, page_size)                                                                                     \
  X(int32_t, slots_are_64)          /* int64, else int32 */                                                 \
  X(int32_t, positions_are_64)                                                                              \
  X(int32_t, padding)               /* slot -1 is skipped without a report */                               \
  X(int32_t, max_position)                                                                                  \
  X(int32_t, rotary_dim)            /* even, at most dim */                                                 \
  X(int32_t, pairing)                                                                                       \
  X(int32_t, table_is_f32)          /* else of the elements' type */                                        \
  X(int32_t, table_is_aligned)      /* chunks of a row's table begin at multiples of their size */          \
  X(int32_t, weight_is_f32)                                                                                 \
  X(float, weight_offset)           /* added to the norm's weights: 1 as Gemma has it */                    \
  X(float, eps)                                                                                             \
  X(float, mean_factor)             /* 1 / dim of the parts that are normalised */

struct AppendParams {
#define APPEND_PARAMS_DECLARE(type, name) type name;
  APPEND_PARAMS_FIELDS(APPEND_PARAMS_DECLARE)
#undef APPEND_PARAMS_DECLARE
};
