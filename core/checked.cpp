#include "core/checked.h"

namespace headrace {

std::optional<uint64_t> checked_product(std::span<const uint64_t> factors) {
  // Looked for first: 2^63 * 2^63 * 0 is zero in every order.
  for (uint64_t factor : factors) {
    if (factor == 0) return 0;
  }
  std::optional<uint64_t> product = 1;
  for (uint64_t factor : factors) {
    product = checked_mul(*product, factor);
    if (!product) return std::nullopt;
  }
  return product;
}

}  // namespace headrace
