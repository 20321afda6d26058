// Entries of decode attention. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16, and either
// -DHEAD_DIM=64|128|256 -DOPTIONS=true|false for flash_decode or -DMERGE for the merge of its splits.
#include "attention/decode.cuh"
#include "attention/decode_merge.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

#if defined(MERGE)
using EntryConfig = decode::MergeConfig<kElement>;
INFER_ENTRY_POINT(INFER_ENTRY, DecodeParams, DECODE_PARAMS_FIELDS, EntryConfig, decode::merge<EntryConfig>)
#else
using EntryConfig = decode::Config<kElement, HEAD_DIM, OPTIONS>;
INFER_ENTRY_POINT(INFER_ENTRY, DecodeParams, DECODE_PARAMS_FIELDS, EntryConfig, decode::flash_decode<EntryConfig>)
#endif
