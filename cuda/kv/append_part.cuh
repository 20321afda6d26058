// A part of kv_append's arguments. Mirrored by the host; names and order are compared by a test.
#pragma once

#include <cstdint>

// A token's rows of one kind: heads × dim elements. Bases are multiples of 16 bytes. Strides count elements and are not
// negative; all but those of transposed values are whole chunks: of 8 elements in 16 bits, of 16 in 8.
//
// By token, element d of head h of a token is output[token·out_stride_page + h·out_stride_head + d]. In pages it is
//   output[page·out_stride_page + offset·out_stride_slot + h·out_stride_head + group·out_stride_group
//       + (d % groups' elements)·out_stride_element]
// with groups of 8 << group_shift elements. Values of the split layout [pages, heads, dim, page_size] are transposed.
#define APPEND_PART_FIELDS(X)                                                                               \
  X(const void*, input)             /* [tokens, heads, dim] */                                              \
  X(void*, output)                  /* may be `input` if by token */                                        \
  X(const void*, norm_weight)       /* [dim]; null: not normalised */                                       \
  X(const float*, scales)           /* value = scale · stored; [heads] or [1]; null: 1 */                   \
  X(int64_t, in_stride_token)                                                                               \
  X(int64_t, in_stride_head)                                                                                \
  X(int64_t, out_stride_page)                                                                               \
  X(int64_t, out_stride_slot)                                                                               \
  X(int64_t, out_stride_head)                                                                               \
  X(int64_t, out_stride_group)                                                                              \
  X(int64_t, out_stride_element)                                                                            \
  X(int32_t, heads)                                                                                         \
  X(int32_t, dim)                   /* a multiple of 8, at most 256 */                                      \
  X(int32_t, lanes_shift)           /* log2 of the lanes of a row: at least one for each 8 elements */      \
  X(int32_t, passes)                /* of a warp over the heads: ceil(heads / rows of a pass) */            \
  X(int32_t, group_shift)                                                                                   \
  X(int32_t, scale_stride)          /* from head to head: 0 or 1 */                                         \
  X(int32_t, format)                /* kv::Format */                                                        \
  X(int32_t, rotates)                                                                                       \
  X(int32_t, in_pages)              /* else by token */                                                     \
  X(int32_t, transposed)            /* elements of a chunk are stored one by one, out_stride_element apart */

struct AppendPart {
#define APPEND_PART_DECLARE(type, name) type name;
  APPEND_PART_FIELDS(APPEND_PART_DECLARE)
#undef APPEND_PART_DECLARE
};
