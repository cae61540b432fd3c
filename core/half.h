// 16-bit floating-point conversions, bit for bit the same on every ISA: round to nearest even,
// NaN stays NaN (quiet), subnormals are kept.
#pragma once

#include <bit>
#include <cstdint>

namespace headrace {

inline float bf16_to_f32(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t x);
uint16_t f32_to_f16(float x);

}  // namespace headrace
