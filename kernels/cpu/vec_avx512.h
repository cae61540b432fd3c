// Sixteen float32 lanes in one 512-bit register: F, BW, VL, DQ and BF16. See vec.h for the
// contract.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace headrace::kernels {
namespace {

inline constexpr const char* kIsa = "avx512";

struct F {
  __m512 v;
};

inline F zero() { return {_mm512_setzero_ps()}; }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }

inline __mmask16 first_lanes(uint64_t count) {
  return static_cast<__mmask16>((uint32_t{1} << count) - 1);
}
inline F load_first(const float* p, uint64_t count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
inline void store_first(float* p, F a, uint64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), a.v);
}

inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

inline F nearest(F a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline F times_power_of_two(F a, F n) {
  const __m512i exponent =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
  return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(exponent))};
}
inline F zero_where_less(F a, F x, F bound) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_NLT_UQ), a.v)};
}

inline F load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// Not vcvtneps2bf16, which flushes subnormal inputs: the conversion is the same on every ISA.
inline void store_bf16(uint16_t* p, F a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}

inline float sum_lanes(F a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float max_lanes(F a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

struct Pairs {  // lane i: columns 2j and 2j + 1 of row i of a bfloat16 panel
  __m512bh v;
};
inline Pairs load_bf16_pairs(const std::byte* p) {
  return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))};
}
inline Pairs broadcast_bf16_pair(const uint16_t* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits))};
}
inline F dot_pairs(F acc, Pairs w, Pairs x) { return {_mm512_dpbf16_ps(acc.v, w.v, x.v)}; }

struct TwoColumns {  // of a float16 panel, widened
  F even, odd;
};
inline TwoColumns load_bf16_columns(const std::byte* p) {
  const __m512i bits = _mm512_loadu_si512(p);
  const __m512i odd = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000)));
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))}, {_mm512_castsi512_ps(odd)}};
}
inline TwoColumns load_f16_pairs(const std::byte* p) {
  const __m512i bits = _mm512_loadu_si512(p);
  return {{_mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits))},
          {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)))}};
}

// Two panels at a time: memory gives two streams a core up to a fifth more than four (2 to 6 rows,
// 1.1 to 1.3 times the rate), and two chains are enough for one row.
inline constexpr int kTileRows = 6;
constexpr int tile_panels(int) { return 2; }
inline constexpr bool kMultipliesPairs = true;
inline constexpr int kManyRows = 12, kManyPanels = 2;
// Queries of attention that share a load of keys or values, and columns of values that go with
// them.
inline constexpr int kHeadTile = 12;
constexpr int value_columns(int rows) { return rows <= 2 ? 8 : rows <= 6 ? 4 : 2; }

}  // namespace
}  // namespace headrace::kernels
