// The entry of merge_states: -DINFER_ENTRY=<name>.
#include "common/entry.cuh"
#include "kv/merge.cuh"

INFER_ENTRY_POINT(INFER_ENTRY, MergeParams, MERGE_PARAMS_FIELDS, kv::MergeConfig, kv::merge)
