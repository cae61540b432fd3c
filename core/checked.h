// Arithmetic on sizes that come from files: every operation is checked, none wraps.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace headrace {

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t r;
  return __builtin_add_overflow(a, b, &r) ? std::nullopt : std::optional<uint64_t>(r);
}
inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t r;
  return __builtin_mul_overflow(a, b, &r) ? std::nullopt : std::optional<uint64_t>(r);
}
// Product of all factors; a zero factor makes zero even when the others would overflow.
std::optional<uint64_t> checked_product(std::span<const uint64_t> factors);

}  // namespace headrace
