// Arguments of the sample entry, one struct by value. Mirrored by the host; the layouts are compared by a test.
#pragma once

#include <cstdint>

// A row is sampled as its own options say, which are in device memory and not trusted.
#define SAMPLE_PARAMS_FIELDS(X)                                                                                      \
  X(const void*, logits)           /* [rows, vocab] of type dtype */                                                 \
  X(const float*, temperature)     /* [rows]; 0: the most likely token; null: all 0 */                               \
  X(const int32_t*, top_k)         /* [rows]; 0 and less: all tokens; null: all 0 */                                 \
  X(const float*, top_p)           /* [rows]; 1 and more: all tokens; null: all 1 */                                 \
  X(const uint64_t*, draws)        /* [rows, 2]: seed, and number of the draw; null only with temperature */         \
  X(int32_t*, tokens)              /* [rows]; -1: none */                                                            \
  X(void*, status)                 /* Status, never null */                                                          \
  X(int64_t, logits_stride)        /* elements */                                                                    \
  X(int32_t, vocab)                /* at most 2^19 */                                                                \
  X(int32_t, dtype)                /* Stored: kF16, kBf16, kF32 */                                                   \
  X(int32_t, aligned)              /* rows begin at multiples of 16 bytes */                                         \
  X(int32_t, reserved)

struct SampleParams {
#define SAMPLE_PARAMS_DECLARE(type, name) type name;
  SAMPLE_PARAMS_FIELDS(SAMPLE_PARAMS_DECLARE)
#undef SAMPLE_PARAMS_DECLARE
};
