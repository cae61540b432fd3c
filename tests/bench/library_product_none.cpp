#include "tests/bench/library_product.h"

namespace headrace::engine {

std::unique_ptr<LibraryProduct> library_product(unsigned) { return nullptr; }

}  // namespace headrace::engine
