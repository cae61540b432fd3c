// XXH3-64 in the widest registers that this processor has: the same figures everywhere, two to
// three times as fast as the compiler's baseline. One implementation a processor family, chosen
// when built.
#pragma once

#include <cstddef>
#include <cstdint>

#define XXH_STATIC_LINKING_ONLY  // the state's size
#include <xxhash.h>

namespace headrace::swap {

uint64_t hash64(const void* data, size_t bytes, uint64_t seed);
void hash64_update(XXH3_state_t& state, const void* data, size_t bytes);

}  // namespace headrace::swap
