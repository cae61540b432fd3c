// The table "scalar".
#include "kernels/cpu/vec_scalar.h"
#include "kernels/cpu/vector_table.h"

namespace headrace::kernels {

const Kernels& scalar_table() { return kVectorTable; }

}  // namespace headrace::kernels
