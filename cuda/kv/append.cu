// Entries of kv_append. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16.
#include "common/entry.cuh"
#include "kv/append.cuh"

#if defined(DTYPE_BF16)
using EntryConfig = kv::AppendConfig<fragment::Element::kBf16>;
#elif defined(DTYPE_F16)
using EntryConfig = kv::AppendConfig<fragment::Element::kF16>;
#endif

INFER_ENTRY_POINT(INFER_ENTRY, AppendParams, APPEND_PARAMS_FIELDS, EntryConfig, kv::append<EntryConfig>)
