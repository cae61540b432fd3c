// Built for the compiler's target, where there is no dispatcher.
#include "swap/hash/hash.h"

namespace headrace::swap {

uint64_t hash64(const void* data, size_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

void hash64_update(XXH3_state_t& state, const void* data, size_t bytes) {
  XXH3_64bits_update(&state, data, bytes);
}

}  // namespace headrace::swap
