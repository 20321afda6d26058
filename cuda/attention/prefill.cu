// Entries of flash_prefill. One per compilation: -DINFER_ENTRY=<name> -DHEAD_DIM=64|128 -DDTYPE_BF16|-DDTYPE_F16.
#include "attention/prefill.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

// The widest key tiles that leave no value without a register.
using EntryConfig = prefill::Config<kElement, HEAD_DIM, HEAD_DIM == 64 ? 96 : 64>;

INFER_ENTRY_POINT(INFER_ENTRY, PrefillParams, PREFILL_PARAMS_FIELDS, EntryConfig, prefill::flash_prefill<EntryConfig>)
