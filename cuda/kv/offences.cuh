// What operations on caches find wrong in device memory, beside the offences of common/status.cuh.
#pragma once

#include "common/status.cuh"

namespace kv {

constexpr Offence kSlot = static_cast<Offence>(8);      // slot -1 or out of range: nothing is stored. Index: the token's
constexpr Offence kPosition = static_cast<Offence>(9);  // position out of range: nothing is done. Index: the token's
constexpr Offence kPagePair = static_cast<Offence>(10);  // page id of a copy out of range: not copied. Index: the pair's

}  // namespace kv
