#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace headrace {
namespace {

// Multipliers and Weyl increments of the publication.
constexpr uint32_t kMultiplier0 = 0xd2511f53u;
constexpr uint32_t kMultiplier1 = 0xcd9e8d57u;
constexpr uint32_t kIncrement0 = 0x9e3779b9u;
constexpr uint32_t kIncrement1 = 0xbb67ae85u;
constexpr int kRounds = 10;

constexpr uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
constexpr uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
  std::array<uint32_t, 4> x = {low(counter_low), high(counter_low), low(counter_high),
                               high(counter_high)};
  uint32_t key0 = low(key);
  uint32_t key1 = high(key);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t a = uint64_t{kMultiplier0} * x[0];
    const uint64_t b = uint64_t{kMultiplier1} * x[2];
    x = {high(b) ^ x[1] ^ key0, low(b), high(a) ^ x[3] ^ key1, low(a)};
    key0 += kIncrement0;
    key1 += kIncrement1;
  }
  return x;
}

uint32_t Random::next_u32() {
  if (left_ == 0) {
    block_ = philox(seed_, stream_, counter_++);
    left_ = 4;
  }
  return block_[4 - left_--];
}

uint64_t Random::next_u64() {
  const uint64_t first = next_u32();
  return first | (uint64_t{next_u32()} << 32);
}

uint64_t Random::below(uint64_t bound) {
  HEADRACE_ASSERT(bound > 0);
  // The lowest 2^64 mod bound draws are refused, so that every remainder is equally likely.
  const uint64_t refused = (0 - bound) % bound;
  uint64_t draw = next_u64();
  while (draw < refused) draw = next_u64();
  return draw % bound;
}

double Random::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

float Random::normal() {  // Box and Muller; 1 - uniform() lies in (0, 1], where log is finite
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * uniform()));
}

}  // namespace headrace
