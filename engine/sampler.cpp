#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace headrace::engine {

namespace {

int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

void refuse(bool bad, const char* flag, const char* range) {
  if (!bad) return;
  throw Error(ErrorCode::kUsage, fmt::format("{}: out of range; give {}", flag, range))
      .at_field(flag);
}

}  // namespace

void check(const SamplingParams& params) {
  refuse(!(params.temperature >= 0 && params.temperature <= 100), "--temperature", "0 to 100");
  refuse(!(params.top_p > 0 && params.top_p <= 1), "--top-p", "more than 0, at most 1");
  refuse(params.max_tokens > (1u << 24), "-n", "at most 16777216");
}

Sampler::Sampler(uint64_t vocabulary) : order_(vocabulary), weight_(vocabulary) {}

int32_t Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                        uint64_t index) {
  HEADRACE_ASSERT(logits.size() == order_.size(), fmt::format("{} logits", logits.size()));
  for (float x : logits) {
    if (!(x <
          std::numeric_limits<float>::infinity())) {  // nor is infinity: its weight is not a number
      throw Error(
          ErrorCode::kFailed,
          "logits: not a number; the weights or their precision are damaged: check the model "
          "with `headrace store verify`");
    }
  }
  const int32_t best = argmax(logits);
  if (params.temperature == 0 || params.top_k == 1) return best;

  std::iota(order_.begin(), order_.end(), 0u);
  const auto more_likely = [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  size_t kept = order_.size();
  if (params.top_k != 0 && params.top_k < kept) {
    kept = params.top_k;
    std::nth_element(order_.begin(), order_.begin() + static_cast<ptrdiff_t>(kept) - 1,
                     order_.end(), more_likely);
  }
  std::sort(order_.begin(), order_.begin() + static_cast<ptrdiff_t>(kept), more_likely);
  const double top = logits[static_cast<size_t>(best)];
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    weight_[i] = std::exp((logits[order_[i]] - top) / params.temperature);
    sum += weight_[i];
  }
  if (params.top_p < 1) {
    double reached = 0;
    size_t n = 0;
    while (n < kept && reached < params.top_p * sum) reached += weight_[n++];
    kept = std::max<size_t>(n, 1);
    sum = reached;
  }
  const auto bits = philox(params.seed, 0, index);
  const uint64_t draw = (uint64_t{bits[0]} << 32 | bits[1]) >> 11;
  double left = static_cast<double>(draw) * 0x1p-53 * sum;
  for (size_t i = 0; i < kept; ++i) {
    left -= weight_[i];
    if (left < 0) return static_cast<int32_t>(order_[i]);
  }
  return static_cast<int32_t>(order_[kept - 1]);
}

}  // namespace headrace::engine
