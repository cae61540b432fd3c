// Machines without vector tables of their own.
#include "kernels/cpu/tables.h"

namespace headrace::kernels {

std::span<const IsaTable> isa_tables() { return {}; }

}  // namespace headrace::kernels
