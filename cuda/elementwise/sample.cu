// The entry of sample. -DINFER_ENTRY=<name>
#include "common/entry.cuh"
#include "elementwise/sample.cuh"

INFER_ENTRY_POINT(INFER_ENTRY, SampleParams, SAMPLE_PARAMS_FIELDS, elementwise::SampleConfig, elementwise::sample)
