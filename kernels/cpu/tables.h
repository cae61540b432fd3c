// The tables that the translation units of this folder define; kernels/table.cpp lists them.
#pragma once

#include <span>

#include "kernels/table.h"

namespace headrace::kernels {

const Kernels& reference_table();
const Kernels& scalar_table();
const Kernels& avx2_table();
const Kernels& avx512_table();

// Tables whose instructions the processor may lack, best first: those of isa_x86.cpp or, on other
// machines, none (isa_none.cpp).
struct IsaTable {
  const Kernels* kernels;
  bool supported;
};
std::span<const IsaTable> isa_tables();

// Shared by all tables: too small to be worth vectors.
void topk_route(const TopkRouteArgs& a);

}  // namespace headrace::kernels
