// How fast each pair of a head's elements turns, plain and scaled.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/block.h"

namespace headrace::models {

namespace {

double llama3(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < s.original_positions / s.high_freq) return frequency;
  if (wavelength > s.original_positions / s.low_freq) return frequency / s.factor;
  const double kept = (s.original_positions / wavelength - s.low_freq) / (s.high_freq - s.low_freq);
  return (1 - kept) * frequency / s.factor + kept * frequency;
}

// The share of pair i that is slowed: none of those that turn more than beta_fast times over the
// original length, all of those that turn less than beta_slow times.
float yarn_slowed(const Rope& rope, uint32_t i) {
  const RopeScaling& s = rope.scaling;
  const double dim = rope.rotary;
  const auto pair_that_turns = [&](double times) {
    return dim * std::log(s.original_positions / (times * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = pair_that_turns(s.beta_fast), high = pair_that_turns(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  const float ramp =
      (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
  return std::clamp(ramp, 0.0f, 1.0f);
}

}  // namespace

// Rounded to float32 where transformers rounds (exponent, power, reciprocal), because at position
// 100,000 the rounding of a frequency is visible in the angle, and models are trained with it.
std::vector<float> rotary_frequencies(const Rope& rope, bool long_request) {
  const RopeScaling& s = rope.scaling;
  std::vector<float> frequencies;
  for (uint32_t i = 0; i < rope.rotary / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary);
    const float power = static_cast<float>(std::pow(rope.theta, double{exponent}));
    const float frequency = 1.0f / power;
    switch (s.kind) {
      case Scaling::kNone:
        frequencies.push_back(frequency);
        break;
      case Scaling::kLinear:
        frequencies.push_back(frequency / static_cast<float>(s.factor));
        break;
      case Scaling::kLlama3:
        frequencies.push_back(static_cast<float>(llama3(double{frequency}, s)));
        break;
      case Scaling::kYarn: {
        const float slow = 1.0f / (static_cast<float>(s.factor) * power);
        const float kept = 1.0f - yarn_slowed(rope, i);
        frequencies.push_back(slow * (1.0f - kept) + frequency * kept);
        break;
      }
      case Scaling::kLongrope: {
        const double factor = long_request ? s.long_factors[i] : s.short_factors[i];
        frequencies.push_back(1.0f / (static_cast<float>(factor) * power));
        break;
      }
    }
  }
  return frequencies;
}

Rotation rotation_of(const Rope& rope) {
  Rotation out{.rotary = rope.rotary,
               .scale = static_cast<float>(rope.scaling.attention_factor),
               .inv_freq = rotary_frequencies(rope)};
  if (rope.scaling.kind == Scaling::kLongrope) {
    out.long_inv_freq = rotary_frequencies(rope, true);
    out.long_from = static_cast<uint64_t>(rope.scaling.original_positions) + 1;
  }
  return out;
}

}  // namespace headrace::models
