// Entries of moe_permute. One per compilation: -DINFER_ENTRY=<name> -DCOUNT|-DPLACE
#include "common/entry.cuh"
#include "moe/permute.cuh"

#if defined(COUNT)
INFER_ENTRY_POINT(INFER_ENTRY, PermuteParams, PERMUTE_PARAMS_FIELDS, moe::PermuteConfig, moe::count)
#elif defined(PLACE)
INFER_ENTRY_POINT(INFER_ENTRY, PermuteParams, PERMUTE_PARAMS_FIELDS, moe::PermuteConfig, moe::place)
#endif
