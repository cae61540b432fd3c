// The tables that the translation units of this folder define; kernels/table.cpp lists them.
#pragma once

#include "kernels/table.h"

namespace headrace::kernels {

const Kernels& reference_table();

}  // namespace headrace::kernels
