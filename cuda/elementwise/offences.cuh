// What elementwise operations find wrong in device memory, beside the offences of common/status.cuh.
#pragma once

#include "common/status.cuh"

namespace elementwise {

constexpr Offence kTokenId = static_cast<Offence>(18);   // id out of range of the table: a row of zeros. Index: the token's
constexpr Offence kLogits = static_cast<Offence>(19);    // NaN among logits, or nothing above -inf. Index: the row's
constexpr Offence kSampling = static_cast<Offence>(20);  // temperature or top-p that mean nothing. Index: the row's

}  // namespace elementwise
