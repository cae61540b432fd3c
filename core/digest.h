// A 64-bit digest (XXH3) of bytes: names, fingerprints, change detection. Not a defence against an
// attacker.
#pragma once

#include <cstdint>
#include <string_view>

namespace headrace {

uint64_t digest64(std::string_view bytes, uint64_t seed = 0);

}  // namespace headrace
