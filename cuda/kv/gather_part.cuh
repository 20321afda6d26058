// A part of kv_gather's arguments. Mirrored by the host; names and order are compared by a test.
#pragma once

#include <cstdint>

// Rows of keys or of values. Strides count elements and are not negative. In pages element d of a head is
//   input[page·in_stride_page + offset·in_stride_slot + head·in_stride_head + group·in_stride_group
//       + (d % groups' elements)·in_stride_element]
// with groups of 8 << group_shift elements.
#define GATHER_PART_FIELDS(X)                                                                               \
  X(const void*, input)                                                                                     \
  X(void*, output)                  /* [tokens, heads, dim] */                                              \
  X(const float*, scales)           /* value = scale · stored; [heads] or [1]; null: 1 */                   \
  X(int64_t, in_stride_page)                                                                                \
  X(int64_t, in_stride_slot)                                                                                \
  X(int64_t, in_stride_head)                                                                                \
  X(int64_t, in_stride_group)                                                                               \
  X(int64_t, in_stride_element)                                                                             \
  X(int64_t, out_stride_token)                                                                              \
  X(int64_t, out_stride_head)                                                                               \
  X(int32_t, heads)                                                                                         \
  X(int32_t, dim)                   /* a multiple of 8, at most 256 */                                      \
  X(int32_t, lanes_shift)           /* log2 of the lanes of a row: at least one for each 8 elements */      \
  X(int32_t, passes)                /* of a warp over the heads: ceil(heads / rows of a pass) */            \
  X(int32_t, group_shift)                                                                                   \
  X(int32_t, scale_stride)          /* from head to head: 0 or 1 */                                         \
  X(int32_t, transposed)            /* elements of a chunk are in_stride_element apart */                   \
  X(int32_t, format)                /* kv::Format */

struct GatherPart {
#define GATHER_PART_DECLARE(type, name) type name;
  GATHER_PART_FIELDS(GATHER_PART_DECLARE)
#undef GATHER_PART_DECLARE
};
