// Entries of moe_grouped. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16 -DLAYOUT_NK|-DLAYOUT_KN and
//   -DTILE_M=16|64|128
#include "common/entry.cuh"
#include "moe/grouped.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif
#if defined(LAYOUT_NK)
constexpr gemm::Layout kLayout = gemm::Layout::kNK;
#elif defined(LAYOUT_KN)
constexpr gemm::Layout kLayout = gemm::Layout::kKN;
#endif
// As gemm's of the same tile.
constexpr bool kLarge = TILE_M == 128;
using EntryConfig = moe::GroupedConfig<gemm::Config<kElement, kLayout, TILE_M, 128, kLarge ? 32 : 64,
                                                    TILE_M == 64 ? 3 : 4, kLarge ? 2 : 1, kLarge ? 2 : 4>>;
#if TILE_M == 16
// Of registers as many as one block may have: the assembler would save some for blocks that shared memory has no room
// for, and spill.
extern "C" __global__ void __launch_bounds__(EntryConfig::kThreads, 1) INFER_ENTRY(const GroupedParams params);
#endif
INFER_ENTRY_POINT(INFER_ENTRY, GroupedParams, GROUPED_PARAMS_FIELDS, EntryConfig, moe::grouped<EntryConfig>)
