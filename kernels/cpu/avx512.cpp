// The table "avx512".
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vector_table.h"

namespace headrace::kernels {

const Kernels& avx512_table() { return kVectorTable; }

}  // namespace headrace::kernels
