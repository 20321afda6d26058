// Arguments of the moe_combine entries, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// Strides count elements and are not negative. `routed` to `local`: see experts.cuh.
#define COMBINE_PARAMS_FIELDS(X)                                                     \
  X(const void*, parts)     /* [splits, tokens, slots, hidden]: f32, or of y's type */ \
  X(const int32_t*, ids)    /* [tokens, slots] */                                    \
  X(const float*, weights)  /* [tokens, slots] */                                    \
  X(void*, y)               /* [tokens, hidden] */                                   \
  X(int64_t, y_stride)                                                               \
  X(int32_t, tokens)                                                                 \
  X(int32_t, slots)                                                                  \
  X(int32_t, hidden)        /* a multiple of 8 */                                    \
  X(int32_t, splits)                                                                 \
  X(int32_t, parts_are_f32)                                                          \
  X(int32_t, routed)                                                                 \
  X(int32_t, shared)                                                                 \
  X(int32_t, first)                                                                  \
  X(int32_t, local)                                                                  \
  X(int32_t, reserved)

struct CombineParams {
#define COMBINE_PARAMS_DECLARE(type, name) type name;
  COMBINE_PARAMS_FIELDS(COMBINE_PARAMS_DECLARE)
#undef COMBINE_PARAMS_DECLARE
};
