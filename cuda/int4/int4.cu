// Entries of int4. One per compilation: -DINFER_ENTRY=<name> -DDTYPE_BF16|-DDTYPE_F16 and
//   -DTILE_M=8|16|64|128.
#include "common/entry.cuh"
#include "int4/int4.cuh"
#include "int4/stream.cuh"
#include "int4/tall.cuh"

#if defined(DTYPE_BF16)
constexpr fragment::Element kElement = fragment::Element::kBf16;
#elif defined(DTYPE_F16)
constexpr fragment::Element kElement = fragment::Element::kF16;
#endif
#if TILE_M <= 16
using EntryConfig = q4::StreamConfig<kElement, TILE_M>;
// As many as the plan counts on: left alone, the assembler spills for the sake of a fourth.
extern "C" __global__ void __launch_bounds__(EntryConfig::kThreads, EntryConfig::kResident)
    INFER_ENTRY(const Int4Params params);
INFER_ENTRY_POINT(INFER_ENTRY, Int4Params, INT4_PARAMS_FIELDS, EntryConfig, q4::stream<EntryConfig>)
#elif TILE_M == 128
using EntryConfig = q4::TallConfig<kElement>;
INFER_ENTRY_POINT(INFER_ENTRY, Int4Params, INT4_PARAMS_FIELDS, EntryConfig, q4::tall<EntryConfig>)
#else
using EntryConfig = q4::Config<kElement, TILE_M, 3>;
INFER_ENTRY_POINT(INFER_ENTRY, Int4Params, INT4_PARAMS_FIELDS, EntryConfig, q4::matmul<EntryConfig>)
#endif
