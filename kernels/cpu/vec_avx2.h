// Sixteen float32 lanes in two 256-bit registers: AVX2, FMA and F16C. See vec.h for the contract.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace headrace::kernels {
namespace {

inline constexpr const char* kIsa = "avx2";

struct F {
  __m256 lo, hi;
};

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}

inline __m256i first_lanes(int64_t count) {  // of eight; count may lie outside [0, 8]
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F load_first(const float* p, uint64_t count) {
  const int64_t n = static_cast<int64_t>(count);
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
inline void store_first(float* p, F a, uint64_t count) {
  const int64_t n = static_cast<int64_t>(count);
  _mm256_maskstore_ps(p, first_lanes(n), a.lo);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), a.hi);
}

inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F fma(F a, F b, F c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

inline F nearest(F a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
inline __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F times_power_of_two(F a, F n) {
  return {_mm256_mul_ps(a.lo, power_of_two(n.lo)), _mm256_mul_ps(a.hi, power_of_two(n.hi))};
}
inline F zero_where_less(F a, F x, F bound) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ), a.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ), a.hi)};
}

inline __m256 widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline F load_bf16(const uint16_t* p) {
  const __m128i* in = reinterpret_cast<const __m128i*>(p);
  return {widen_bf16(_mm_loadu_si128(in)), widen_bf16(_mm_loadu_si128(in + 1))};
}
inline F load_f16(const uint16_t* p) {
  const __m128i* in = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(in)), _mm256_cvtph_ps(_mm_loadu_si128(in + 1))};
}
inline __m256i bf16_bits(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
// The low 16 bits of each 32-bit lane of a and b, in order.
inline __m256i low_halves(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
}
inline void store_bf16(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), low_halves(bf16_bits(a.lo), bf16_bits(a.hi)));
}

inline float sum_lanes(F a) {
  const __m256 half = _mm256_add_ps(a.lo, a.hi);
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float max_lanes(F a) {
  const __m256 half = _mm256_max_ps(a.lo, a.hi);
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

struct TwoColumns {  // columns 2j and 2j + 1 of a panel, or of a row of x in every lane
  F even, odd;
};
inline __m256 even_bf16(__m256i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)); }
inline __m256 odd_bf16(__m256i bits) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000))));
}
using Pairs = TwoColumns;
inline Pairs load_bf16_pairs(const std::byte* p) {
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + 1);
  return {{even_bf16(lo), even_bf16(hi)}, {odd_bf16(lo), odd_bf16(hi)}};
}
inline Pairs broadcast_bf16_pair(const uint16_t* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const __m256i both = _mm256_set1_epi32(bits);
  return {{even_bf16(both), even_bf16(both)}, {odd_bf16(both), odd_bf16(both)}};
}
inline TwoColumns load_bf16_columns(const std::byte* p) { return load_bf16_pairs(p); }
inline F dot_pairs(F acc, Pairs w, Pairs x) { return fma(x.odd, w.odd, fma(x.even, w.even, acc)); }

inline TwoColumns load_f16_pairs(const std::byte* p) {
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p) + 1);
  const __m256i mask = _mm256_set1_epi32(0xffff);
  const __m256i even = low_halves(_mm256_and_si256(lo, mask), _mm256_and_si256(hi, mask));
  const __m256i odd = low_halves(_mm256_srli_epi32(lo, 16), _mm256_srli_epi32(hi, 16));
  return {{_mm256_cvtph_ps(_mm256_castsi256_si128(even)),
           _mm256_cvtph_ps(_mm256_extracti128_si256(even, 1))},
          {_mm256_cvtph_ps(_mm256_castsi256_si128(odd)),
           _mm256_cvtph_ps(_mm256_extracti128_si256(odd, 1))}};
}

// Eight sums in flight hide the latency of FMA; sixteen registers hold no more than that with the
// weights of two columns.
inline constexpr int kTileRows = 4;
constexpr int tile_panels(int rows) { return rows <= 2 ? 2 : 1; }
inline constexpr bool kMultipliesPairs = false;  // a step of a product is one column
inline constexpr int kManyRows = 6, kManyPanels = 1;
// Queries of attention that share a load of keys or values, and columns of values that go with
// them.
inline constexpr int kHeadTile = 4;
constexpr int value_columns(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

}  // namespace
}  // namespace headrace::kernels
