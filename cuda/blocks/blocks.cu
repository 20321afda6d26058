// Entries of blocks. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16 -DBITS=4|8.
#include "common/entry.cuh"
#include "blocks/blocks.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif
using EntryConfig = blocks::Config<kElement, BITS, 16>;
// As many as the plan counts on, as in int4/int4.cu.
extern "C" __global__ void __launch_bounds__(EntryConfig::kThreads, EntryConfig::kResident)
    INFER_ENTRY(const BlockParams params);
INFER_ENTRY_POINT(INFER_ENTRY, BlockParams, BLOCK_PARAMS_FIELDS, EntryConfig, q4::stream<EntryConfig>)
