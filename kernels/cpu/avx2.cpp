// The table "avx2".
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vector_table.h"

namespace headrace::kernels {

const Kernels& avx2_table() { return kVectorTable; }

}  // namespace headrace::kernels
