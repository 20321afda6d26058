// Entries of norm. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16
#include "common/entry.cuh"
#include "elementwise/norm.cuh"

#if defined(DTYPE_BF16)
using EntryConfig = elementwise::NormConfig<fragment::Element::kBf16>;
#elif defined(DTYPE_F16)
using EntryConfig = elementwise::NormConfig<fragment::Element::kF16>;
#endif
INFER_ENTRY_POINT(INFER_ENTRY, NormParams, NORM_PARAMS_FIELDS, EntryConfig, elementwise::norm<EntryConfig>)
