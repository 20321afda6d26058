// Entries of flash_prefill. One per compilation: -DINFER_ENTRY=<name> -DHEAD_DIM=64|96|128|192|256 -DVALUE_DIM=<128 with
// 192, else the same> -DVARIANT=kLean|kPaged|kFull -DDTYPE_BF16|-DDTYPE_F16.
#include "attention/prefill.cuh"
#include "common/entry.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

// The widest key tiles that leave no value without a register.
constexpr int tile_k(int head_dim, prefill::Variant variant) {
  if (head_dim == 64) return 96;
  if (head_dim == 192 || (head_dim == 128 && variant == prefill::Variant::kFull)) return 48;
  return head_dim == 256 ? 32 : 64;
}

// Two blocks of 16 rows for each warp, or one and Q in registers where the output of two has no room.
constexpr int kWarps = HEAD_DIM == 256 ? 8 : 4;
constexpr prefill::Variant kVariant = prefill::Variant::VARIANT;
using EntryConfig =
    prefill::Config<kElement, HEAD_DIM, VALUE_DIM, kVariant, tile_k(HEAD_DIM, kVariant), kWarps, 8 / kWarps>;

INFER_ENTRY_POINT(INFER_ENTRY, PrefillParams, PREFILL_PARAMS_FIELDS, EntryConfig, prefill::flash_prefill<EntryConfig>)
