// Entries of decode attention over caches in 8 bits. One per compilation: -DINFER_ENTRY=<name>
// -DFORMAT=kE4m3|kE5m2|kInt8 -DHEAD_DIM=64|128|256.
#include "attention/decode_quantised.cuh"
#include "common/entry.cuh"

using EntryConfig = decode::QuantisedConfig<decode::Format::FORMAT, HEAD_DIM>;
INFER_ENTRY_POINT(INFER_ENTRY, QuantisedDecodeParams, QUANTISED_DECODE_PARAMS_FIELDS, EntryConfig,
                  decode::flash_decode_quantised<EntryConfig>)
