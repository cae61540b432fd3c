// Sixteen float32 lanes in four quarters that any compiler target can hold (GNU vector extensions,
// no intrinsics): the table for processors without AVX2. See vec.h for the contract. There is no
// fused multiply-add on the baseline, so fma rounds twice; products of bfloat16 are exact either
// way.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/half.h"

namespace headrace::kernels {
namespace {

inline constexpr const char* kIsa = "scalar";

typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t QuarterBits __attribute__((vector_size(16)));

struct F {
  Quarter q[4];
};

template <typename Function>
inline F each(const Function& function) {
  return {{function(0), function(1), function(2), function(3)}};
}

inline F set1(float x) {
  return each([&](int) { return Quarter{x, x, x, x}; });
}
inline F zero() { return set1(0); }
inline F load(const float* p) {
  F a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
inline void store(float* p, F a) { __builtin_memcpy(p, &a, sizeof a); }
inline F load_first(const float* p, uint64_t count) {
  F a = zero();
  __builtin_memcpy(&a, p, count * sizeof(float));
  return a;
}
inline void store_first(float* p, F a, uint64_t count) {
  __builtin_memcpy(p, &a, count * sizeof(float));
}

inline F add(F a, F b) {
  return each([&](int i) { return a.q[i] + b.q[i]; });
}
inline F sub(F a, F b) {
  return each([&](int i) { return a.q[i] - b.q[i]; });
}
inline F mul(F a, F b) {
  return each([&](int i) { return a.q[i] * b.q[i]; });
}
inline F div(F a, F b) {
  return each([&](int i) { return a.q[i] / b.q[i]; });
}
inline F min(F a, F b) {
  return each([&](int i) { return a.q[i] < b.q[i] ? a.q[i] : b.q[i]; });
}
inline F max(F a, F b) {
  return each([&](int i) { return a.q[i] > b.q[i] ? a.q[i] : b.q[i]; });
}
inline F fma(F a, F b, F c) { return add(mul(a, b), c); }

inline F nearest(F a) {
  // Adding 1.5 * 2^23 leaves no bits for a fraction; |a| < 2^22 here.
  const F magic = set1(12582912.0f);
  return sub(add(a, magic), magic);
}
inline F times_power_of_two(F a, F n) {
  return each([&](int i) {
    const QuarterBits exponent = (__builtin_convertvector(n.q[i], QuarterBits) + 127) << 23;
    return a.q[i] * reinterpret_cast<Quarter>(exponent);
  });
}
inline F zero_where_less(F a, F x, F bound) {
  return each([&](int i) { return x.q[i] < bound.q[i] ? Quarter{} : a.q[i]; });
}

inline F load_bf16(const uint16_t* p) {
  F a;
  for (int i = 0; i < 16; ++i) a.q[i / 4][i % 4] = bf16_to_f32(p[i]);
  return a;
}
inline F load_f16(const uint16_t* p) {
  F a;
  for (int i = 0; i < 16; ++i) a.q[i / 4][i % 4] = f16_to_f32(p[i]);
  return a;
}
inline void store_bf16(uint16_t* p, F a) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(a.q[i / 4][i % 4]);
}

inline float sum_lanes(F a) {
  const Quarter q = (a.q[0] + a.q[2]) + (a.q[1] + a.q[3]);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
inline float max_lanes(F a) {
  const F halves = max(a, {{a.q[2], a.q[3], a.q[2], a.q[3]}});
  const F quarter = max(halves, {{halves.q[1], halves.q[1], halves.q[1], halves.q[1]}});
  float most = quarter.q[0][0];
  for (int i = 1; i < 4; ++i) most = quarter.q[0][i] > most ? quarter.q[0][i] : most;
  return most;
}

struct TwoColumns {  // columns 2j and 2j + 1 of a panel, or of a row of x in every lane
  F even, odd;
};
using Pairs = TwoColumns;
inline F even_bf16(const QuarterBits (&bits)[4]) {
  return each([&](int i) { return reinterpret_cast<Quarter>(bits[i] << 16); });
}
inline F odd_bf16(const QuarterBits (&bits)[4]) {
  return each([&](int i) { return reinterpret_cast<Quarter>(bits[i] & ~0xffff); });
}
inline Pairs load_bf16_pairs(const std::byte* p) {
  QuarterBits bits[4];
  __builtin_memcpy(bits, p, sizeof bits);
  return {even_bf16(bits), odd_bf16(bits)};
}
inline Pairs broadcast_bf16_pair(const uint16_t* p) {
  return {set1(bf16_to_f32(p[0])), set1(bf16_to_f32(p[1]))};
}
inline TwoColumns load_bf16_columns(const std::byte* p) { return load_bf16_pairs(p); }
inline F dot_pairs(F acc, Pairs w, Pairs x) { return fma(x.odd, w.odd, fma(x.even, w.even, acc)); }

inline TwoColumns load_f16_pairs(const std::byte* p) {
  uint16_t bits[32];
  __builtin_memcpy(bits, p, sizeof bits);
  TwoColumns columns;
  for (int i = 0; i < 16; ++i) {
    columns.even.q[i / 4][i % 4] = f16_to_f32(bits[2 * i]);
    columns.odd.q[i / 4][i % 4] = f16_to_f32(bits[2 * i + 1]);
  }
  return columns;
}

inline constexpr int kTileRows = 2;
constexpr int tile_panels(int) { return 1; }
inline constexpr bool kMultipliesPairs = false;  // a step of a product is one column
inline constexpr int kManyRows = 2, kManyPanels = 1;
// Queries of attention that share a load of keys or values, and columns of values that go with
// them.
inline constexpr int kHeadTile = 2;
constexpr int value_columns(int) { return 1; }

}  // namespace
}  // namespace headrace::kernels
