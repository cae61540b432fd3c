// What the sources of this folder that are compiled once per ISA share, on top of one of
// vec_scalar.h, vec_avx2.h and vec_avx512.h, which the translation unit includes first.
//
// Contract of a vec_*.h: F is sixteen float32 lanes; element-wise functions; load_first and
// store_first touch `count` < 16 elements only and read zeros in the others; min and max return
// their second argument where a lane is NaN; fma(a, b, c) = a * b + c; sums over lanes have one
// fixed order. Pairs and dot_pairs are the bfloat16 product of args.h. Sixteen lanes on every ISA
// make the order of all sums the same on all of them.
//
// Everything here lives in an unnamed namespace, on purpose in a header: each ISA's translation
// unit must get its own copy. For the same reason these units call no inline function of the
// standard library: the linker keeps one copy of such a function for the whole program, and it must
// not be the one compiled for AVX-512. tests/kernels/check_symbols.cmake guards this.
#pragma once

#include <cstdint>

#include "core/threads.h"
#include "kernels/args.h"

namespace headrace::kernels {
namespace {

inline constexpr uint64_t kLanes = 16;

inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

// e^x with a relative error below 2e-7; 0 below -87.3, e^88 above 88; NaN stays NaN.
// Range reduction to |r| <= ln(2) / 2 and the polynomial of Cephes' expf (Moshier).
inline F exponential(F x) {
  const F bound = set1(-87.3f);
  const F clamped = max(bound, min(set1(88.0f), x));
  const F n = nearest(mul(clamped, set1(1.44269504f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return zero_where_less(times_power_of_two(p, n), x, bound);
}

inline F absolute(F x) { return max(x, sub(zero(), x)); }
// a where x < bound, else b; both must be finite.
inline F where_less(F x, F bound, F a, F b) {
  return add(sub(a, zero_where_less(a, x, bound)), zero_where_less(b, x, bound));
}

// 1 / (1 + e^-x)
inline F sigmoid(F x) { return div(set1(1.0f), add(set1(1.0f), exponential(sub(zero(), x)))); }

// Relative error below 3e-7. Near zero the polynomial of Cephes' tanhf (Moshier), where the
// exponentials would cancel.
inline F hyperbolic_tangent(F x) {
  const F bound = set1(0.625f);
  const F near = max(sub(zero(), bound), min(bound, x)), z = mul(near, near);
  F p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const F large = sub(mul(set1(2.0f), sigmoid(add(x, x))), set1(1.0f));
  return where_less(absolute(x), bound, mul(near, fma(p, z, set1(1.0f))), large);
}

// The complement of the error function for x >= 0, relative error below 1e-6: the exponential of a
// polynomial in 1 / (1 + x / 2) (Chebyshev fit of Numerical Recipes).
inline F error_complement(F x) {
  const F t = div(set1(1.0f), fma(set1(0.5f), x, set1(1.0f)));
  F p = set1(0.17087277f);
  p = fma(p, t, set1(-0.82215223f));
  p = fma(p, t, set1(1.48851587f));
  p = fma(p, t, set1(-1.13520398f));
  p = fma(p, t, set1(0.27886807f));
  p = fma(p, t, set1(-0.18628806f));
  p = fma(p, t, set1(0.09678418f));
  p = fma(p, t, set1(0.37409196f));
  p = fma(p, t, set1(1.00002368f));
  p = fma(p, t, set1(-1.26551223f));
  return mul(t, exponential(sub(p, mul(x, x))));
}

// Applies body(i, count) to [0, n) in steps of sixteen elements; the last step may be shorter.
template <typename Body>
inline void for_lanes(uint64_t n, const Body& body) {
  uint64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}
inline F load_some(const float* p, uint64_t count) {
  return count == kLanes ? load(p) : load_first(p, count);
}
inline void store_some(float* p, F a, uint64_t count) {
  count == kLanes ? store(p, a) : store_first(p, a, count);
}
inline F load_bf16_some(const uint16_t* p, uint64_t count) {
  if (count == kLanes) return load_bf16(p);
  uint16_t some[kLanes] = {};
  __builtin_memcpy(some, p, count * sizeof some[0]);
  return load_bf16(some);
}
inline F load_f16_some(const uint16_t* p, uint64_t count) {
  if (count == kLanes) return load_f16(p);
  uint16_t some[kLanes] = {};
  __builtin_memcpy(some, p, count * sizeof some[0]);
  return load_f16(some);
}
inline void store_bf16_some(uint16_t* p, F a, uint64_t count) {
  if (count == kLanes) return store_bf16(p, a);
  uint16_t some[kLanes];
  store_bf16(some, a);
  __builtin_memcpy(p, some, count * sizeof some[0]);
}

// Calls body(row) for all rows, on the caller when there is less work than waking a thread costs.
template <typename Body>
inline void for_rows(ThreadPool& pool, uint64_t rows, uint64_t elements_per_row, const Body& body) {
  constexpr uint64_t kWorth = 16384;  // elements: a few microseconds
  if (pool.threads() == 1 || rows * elements_per_row < 2 * kWorth) {
    for (uint64_t row = 0; row < rows; ++row) body(row);
    return;
  }
  const uint64_t step = elements_per_row >= kWorth ? 1 : kWorth / (elements_per_row + 1) + 1;
  pool.run(static_cast<uint32_t>((rows + step - 1) / step), [&](uint32_t chunk) {
    for (uint64_t row = chunk * step; row < least(rows, (chunk + 1) * step); ++row) body(row);
  });
}

}  // namespace
}  // namespace headrace::kernels
