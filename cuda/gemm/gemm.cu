// Entries of gemm. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16 and
//   -DLAYOUT_NK|-DLAYOUT_KN -DTILE_M=16|64|128 -DTILE_N=128|256, -DLAYOUT_ANY, or -DREDUCE.
#include "common/entry.cuh"
#include "gemm/gemm.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif

#if defined(REDUCE)
using EntryConfig = gemm::ReduceConfig<kElement>;
INFER_ENTRY_POINT(INFER_ENTRY, GemmParams, GEMM_PARAMS_FIELDS, EntryConfig, gemm::reduce<EntryConfig>)
#else

#if defined(LAYOUT_ANY)
using EntryConfig = gemm::Config<kElement, gemm::Layout::kAny, 64, 64, 32, 3, 2, 2>;
#else
#if defined(LAYOUT_NK)
constexpr gemm::Layout kLayout = gemm::Layout::kNK;
#elif defined(LAYOUT_KN)
constexpr gemm::Layout kLayout = gemm::Layout::kKN;
#endif
// Large tiles: 64×64 per warp, 32 deep. Small ones, which wait for memory: all warps along N, 64 deep, so that more is
// on its way at a time.
constexpr bool kLarge = TILE_M == 128;
using EntryConfig = gemm::Config<kElement, kLayout, TILE_M, TILE_N, kLarge ? 32 : 64, TILE_M == 64 ? 3 : 4,
                                 kLarge ? 2 : 1, kLarge ? TILE_N / 64 : 4>;
#endif
INFER_ENTRY_POINT(INFER_ENTRY, GemmParams, GEMM_PARAMS_FIELDS, EntryConfig, gemm::gemm<EntryConfig>)
#endif
