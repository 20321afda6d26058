// Which experts this device has, and what the kernels of a mixture of experts report.
#pragma once

#include <cstdint>

#include "common/status.cuh"

namespace moe {

// Kinds of offence, by their number in Status::bits.
constexpr Offence kLogit = static_cast<Offence>(12);        // NaN or +inf among a token's logits, or nothing above -inf
constexpr Offence kExpertId = static_cast<Offence>(13);     // not an expert, nor -1; index: the token
constexpr Offence kExpertRange = static_cast<Offence>(14);  // offsets out of order or range; index: the first such expert
constexpr Offence kPair = static_cast<Offence>(15);         // not a pair of token and slot; index: its place in the order

// Ids are 0 ≤ id < routed, then as many as `shared`, experts that every token goes to. This device has the `local` ids
// from `first` on, and all that are shared: these are its experts 0, 1, …
struct Experts {
  int routed, shared, first, local;

  __device__ __forceinline__ int here() const { return local + shared; }

  // The number of an expert on this device; here() if it is elsewhere, or if the id is none.
  __device__ __forceinline__ int index(int32_t id) const {
    const uint32_t from_first = static_cast<uint32_t>(id) - first, from_shared = static_cast<uint32_t>(id) - routed;
    if (static_cast<uint32_t>(id) < routed) return from_first < local ? from_first : here();
    return from_shared < shared ? local + from_shared : here();
  }

  // An id, or -1, which stands for no expert.
  __device__ __forceinline__ bool valid(int32_t id) const { return id >= -1 && id < routed + shared; }
};

}  // namespace moe
