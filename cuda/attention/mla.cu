// Entries of multi-head latent attention. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16, and either
// -DROWS=16|64 for flash_mla or -DMERGE for the merge of its splits.
#include "attention/mla.cuh"
#include "attention/mla_merge.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

#if defined(MERGE)
using EntryConfig = mla::MergeConfig<kElement>;
INFER_ENTRY_POINT(INFER_ENTRY, MlaParams, MLA_PARAMS_FIELDS, EntryConfig, mla::merge<EntryConfig>)
#else
using EntryConfig = mla::Config<kElement, ROWS>;
INFER_ENTRY_POINT(INFER_ENTRY, MlaParams, MLA_PARAMS_FIELDS, EntryConfig, mla::flash_mla<EntryConfig>)
#endif
