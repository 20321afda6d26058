// Entries of flash_prefill. One per compilation: -DINFER_ENTRY=<name> -DHEAD_DIM=64|128 -DDTYPE_BF16|-DDTYPE_F16.
#include "attention/prefill.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

// The widest key tiles that leave no value without a register. At D=128 this takes copies of K one row at a time.
#if HEAD_DIM == 64
using EntryConfig = prefill::Config<kElement, 64, 96, 1>;
#elif HEAD_DIM == 128
using EntryConfig = prefill::Config<kElement, 128, 64, 4>;
#endif

INFER_ENTRY_POINT(INFER_ENTRY, PrefillParams, PREFILL_PARAMS_FIELDS, EntryConfig, prefill::flash_prefill<EntryConfig>)
