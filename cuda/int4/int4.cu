// Entries of int4. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16 and
//   -DTILE_M=16|64.
#include "common/entry.cuh"
#include "int4/int4.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif
using EntryConfig = q4::Config<kElement, TILE_M, TILE_M == 16 ? 4 : 3>;
INFER_ENTRY_POINT(INFER_ENTRY, Int4Params, INT4_PARAMS_FIELDS, EntryConfig, q4::matmul<EntryConfig>)
