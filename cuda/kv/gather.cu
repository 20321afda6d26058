// Entries of kv_gather. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16.
#include "common/entry.cuh"
#include "kv/gather.cuh"

#if defined(DTYPE_BF16)
using EntryConfig = kv::GatherConfig<fragment::Element::kBf16>;
#elif defined(DTYPE_F16)
using EntryConfig = kv::GatherConfig<fragment::Element::kF16>;
#endif

INFER_ENTRY_POINT(INFER_ENTRY, GatherParams, GATHER_PARAMS_FIELDS, EntryConfig, kv::gather<EntryConfig>)
