// Arguments of the embed entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// How numbers of the table or its scales are stored. Numbers are shared with the host.
enum class Stored : int32_t { kF16 = 0, kBf16 = 1, kF32 = 2, kI8 = 3 };

// Strides count elements and are not negative. Rows of table and y begin at multiples of 16 bytes.
#define EMBED_PARAMS_FIELDS(X)                                                                                       \
  X(const void*, table)        /* [ids, dim] of type table_type */                                                   \
  X(const void*, scales)       /* [ids, ceil(dim / group)] of type scale_type; null: value = stored */               \
  X(const void*, ids)          /* [tokens]; not trusted */                                                           \
  X(void*, y)                  /* [tokens, dim] */                                                                   \
  X(void*, status)             /* Status, never null */                                                              \
  X(int64_t, table_stride)                                                                                           \
  X(int64_t, scales_stride)                                                                                          \
  X(int64_t, y_stride)                                                                                               \
  X(int32_t, rows)             /* of the table */                                                                    \
  X(int32_t, dim)                                                                                                    \
  X(int32_t, group)            /* elements of a scale: a multiple of 8 */                                            \
  X(int32_t, table_type)                                                                                             \
  X(int32_t, scale_type)                                                                                             \
  X(int32_t, ids_are_64)       /* int64, else 32 bits, whose sign does not matter */                                 \
  X(float, factor)             /* times everything: √dim as Gemma has it */                                          \
  X(int32_t, reserved)

struct EmbedParams {
#define EMBED_PARAMS_DECLARE(type, name) type name;
  EMBED_PARAMS_FIELDS(EMBED_PARAMS_DECLARE)
#undef EMBED_PARAMS_DECLARE
};
