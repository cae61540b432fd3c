// What an x86-64 processor can run, by CPUID; the operating system's part is checked there too.
#include <cpuid.h>

#include "kernels/cpu/tables.h"

namespace headrace::kernels {
namespace {

// All of `bits` in ECX of a leaf: features that clang 14 has no name for in __builtin_cpu_supports.
bool has(unsigned leaf, unsigned bits) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(leaf, &a, &b, &c, &d) != 0 && (c & bits) == bits;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has(1, bit_F16C);
}

// What x86-64-v4 allows a compiler besides vectors. Processors have all of it or no AVX-512;
// virtual ones need not.
bool has_scalar_v4() {
  return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         has(1, bit_MOVBE | bit_POPCNT | bit_CMPXCHG16B) &&
         has(0x80000001, bit_LAHF_LM | bit_LZCNT);
}

bool has_avx512() {
  return has_avx2() && has_scalar_v4() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

}  // namespace

std::span<const IsaTable> isa_tables() {
  static const IsaTable list[] = {{&avx512_table(), has_avx512()}, {&avx2_table(), has_avx2()}};
  return list;
}

}  // namespace headrace::kernels
