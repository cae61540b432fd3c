// xxHash's own dispatcher: asks the processor once.
#include "swap/hash/hash.h"

#include <xxh_x86dispatch.h>

namespace headrace::swap {

uint64_t hash64(const void* data, size_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed_dispatch(data, bytes, seed);
}

void hash64_update(XXH3_state_t& state, const void* data, size_t bytes) {
  XXH3_64bits_update_dispatch(&state, data, bytes);
}

}  // namespace headrace::swap
