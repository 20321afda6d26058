// Stamps a kernel entry and the constant that tells the host how to launch it.
//
// The module then holds, besides the code, `<entry>_info`: u32[] = { kInfoVersion, dynamic shared memory in bytes,
// threads, query rows per tile, key rows per tile, stages, sizeof(Params), number of fields, offset of each field }.
// The host reads it from the PTX, so that nothing is written twice.
#pragma once

#include <cstddef>
#include <cstdint>

namespace entry {
constexpr uint32_t kInfoVersion = 1;
}  // namespace entry

#define INFER_PASTE_(a, b) a##b
#define INFER_PASTE(a, b) INFER_PASTE_(a, b)

// For the field lists of parameter structs: FIELDS(X) expands to X(type, name) once per field.
#define INFER_DECLARE_FIELD(type, name) type name;
#define INFER_COUNT_FIELD(type, name) +1u
#define INFER_FIELD_OFFSET(type, name) static_cast<uint32_t>(offsetof(EntryParams, name)),

// Config offers kSmemBytes, kThreads, kTileQ, kTileK, kStages; `body` is called as body(params).
#define INFER_ENTRY_POINT(entry_name, Params, FIELDS, Config, body)                                            \
  using EntryParams = Params;                                                                                  \
  extern "C" __constant__ const uint32_t INFER_PASTE(entry_name, _info)[] = {                                  \
      entry::kInfoVersion, Config::kSmemBytes, Config::kThreads, Config::kTileQ, Config::kTileK, Config::kStages, \
      static_cast<uint32_t>(sizeof(Params)), 0u FIELDS(INFER_COUNT_FIELD), FIELDS(INFER_FIELD_OFFSET)};          \
  extern "C" __global__ void __launch_bounds__(Config::kThreads) entry_name(const Params params) { body(params); }
