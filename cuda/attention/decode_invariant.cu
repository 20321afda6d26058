// Entries of batch-invariant decode attention. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16, and
// either -DHEAD_DIM=64|128|256 or -DMERGE for the merge of its segments.
#include "attention/decode_invariant.cuh"
#include "attention/decode_invariant_merge.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

#if defined(MERGE)
using EntryConfig = decode::MergeConfig<kElement>;
INFER_ENTRY_POINT(INFER_ENTRY, InvariantParams, INVARIANT_PARAMS_FIELDS, EntryConfig,
                  decode::merge_segments<EntryConfig>)
#else
using EntryConfig = decode::InvariantConfig<kElement, HEAD_DIM>;
INFER_ENTRY_POINT(INFER_ENTRY, InvariantParams, INVARIANT_PARAMS_FIELDS, EntryConfig,
                  decode::flash_decode_invariant<EntryConfig>)
#endif
