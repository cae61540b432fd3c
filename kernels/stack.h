// What kernels take of the stacks of the threads that run them.
#pragma once

#include "core/tier.h"

namespace headrace::kernels {

// The most of each thread of a pool: rows and sums of a product that rest beside each other in a
// cache (cpu/matmul_many.h), or queries and sums of attention.
inline constexpr Bytes kThreadStackBytes = 288 * kKiB;

}  // namespace headrace::kernels
