// From logits to a token. A draw is a pure function of (seed, index of the token in the request's
// output) and of the request's own logits: never of its place or its neighbours in a batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace headrace::engine {

struct SamplingParams {
  double temperature = 0;  // 0: greedy
  uint32_t top_k = 0;      // 0: off
  double top_p = 1;        // 1: off
  uint64_t seed = 0;
  uint32_t max_tokens = 256;
  bool ignore_eos = false;
};

// Throws Error(kUsage) naming the flag for a value outside its range.
void check(const SamplingParams& params);

// Holds scratch for one vocabulary; a call allocates nothing. Order: temperature, top-k, then top-p
// over what is left (the smallest set of most likely tokens whose probability reaches top_p). Ties
// go to the lower id. Throws Error(kFailed) when the logits hold a NaN or +infinity.
class Sampler {
 public:
  explicit Sampler(uint64_t vocabulary);
  int32_t sample(std::span<const float> logits, const SamplingParams& params, uint64_t index);

 private:
  std::vector<uint32_t> order_;  // candidate ids
  std::vector<double> weight_;   // of order_[i], not normalised
};

}  // namespace headrace::engine
