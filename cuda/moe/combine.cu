// Entries of moe_combine. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16
#include "common/entry.cuh"
#include "moe/combine.cuh"

#if defined(DTYPE_BF16)
using EntryConfig = moe::CombineConfig<fragment::Element::kBf16>;
#elif defined(DTYPE_F16)
using EntryConfig = moe::CombineConfig<fragment::Element::kF16>;
#endif
INFER_ENTRY_POINT(INFER_ENTRY, CombineParams, COMBINE_PARAMS_FIELDS, EntryConfig, moe::combine<EntryConfig>)
