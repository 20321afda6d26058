// The entry of kv_copy: -DINFER_ENTRY=<name>.
#include "common/entry.cuh"
#include "kv/copy.cuh"

INFER_ENTRY_POINT(INFER_ENTRY, CopyParams, COPY_PARAMS_FIELDS, kv::CopyConfig, kv::copy_pages)
