// A product of a library that is at the limit of the multipliers, to compare with.
#pragma once

#include <memory>

#include "engine/kernel_rates.h"

namespace headrace::engine {

class LibraryProduct {
 public:
  virtual ~LibraryProduct() = default;
  virtual double seconds(const ProductShape& shape) = 0;  // of one product, its weights cold
};

// oneDNN's, with threads of its own; null in a build without it.
std::unique_ptr<LibraryProduct> library_product(unsigned threads);

}  // namespace headrace::engine
