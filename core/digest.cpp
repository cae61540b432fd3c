#include "core/digest.h"

#include <xxhash.h>

namespace headrace {

uint64_t digest64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace headrace
