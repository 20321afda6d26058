// Arguments of moe_route, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

#include "common/status.cuh"

// Numbers are shared with the host.
enum class LogitsType : int32_t { kF32 = 0, kF16 = 1, kBf16 = 2 };
enum class Scoring : int32_t {
  kSoftmax = 0,      // over all experts; then the choice
  kTopKSoftmax = 1,  // over the chosen ones
  kSigmoid = 2
};

// Strides count elements and are not negative.
#define ROUTE_PARAMS_FIELDS(X)                                                                             \
  X(const void*, logits)         /* [tokens, experts] */                                                   \
  X(const float*, bias)          /* [experts], added to scores for the choice only; or null */             \
  X(const void*, shared_gate)    /* [tokens]: shared experts weigh the sigmoid of it; null: they weigh 1 */ \
  X(int32_t*, ids)               /* [tokens, slots] */                                                     \
  X(float*, weights)             /* [tokens, slots] */                                                     \
  X(Status*, status)                                                                                       \
  X(int64_t, logits_stride)                                                                                \
  X(int64_t, shared_gate_stride)                                                                           \
  X(int32_t, tokens)                                                                                       \
  X(int32_t, experts)            /* at most 512 */                                                         \
  X(int32_t, top_k)              /* slots of a token: these, ... */                                        \
  X(int32_t, shared)             /* ... then these; at most 32 together */                                 \
  X(int32_t, groups)             /* of equally many experts, at most 32 */                                 \
  X(int32_t, top_groups)         /* of these, experts are chosen; all of them: no matter */                \
  X(int32_t, group_by_two)       /* groups are ranked by the sum of their two best, not by their best */   \
  X(int32_t, logits_type)                                                                                  \
  X(int32_t, scoring)                                                                                      \
  X(int32_t, renormalize)        /* weights of the chosen add up to 1 */                                   \
  X(float, scale)                /* of the chosen's weights, last */                                       \
  X(int32_t, reserved)

struct RouteParams {
#define ROUTE_PARAMS_DECLARE(type, name) type name;
  ROUTE_PARAMS_FIELDS(ROUTE_PARAMS_DECLARE)
#undef ROUTE_PARAMS_DECLARE
};
