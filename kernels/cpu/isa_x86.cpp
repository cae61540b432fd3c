// What an x86-64 processor can run, by CPUID; the operating system's part is checked there too.
#include <cpuid.h>

#include "kernels/cpu/tables.h"

namespace headrace::kernels {
namespace {

bool has_f16c() {  // clang 14 knows no such name in __builtin_cpu_supports
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

}  // namespace

std::span<const IsaTable> isa_tables() {
  static const IsaTable list[] = {{&avx512_table(), has_avx512()}, {&avx2_table(), has_avx2()}};
  return list;
}

}  // namespace headrace::kernels
