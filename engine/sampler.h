// From logits to a token. A draw is a pure function of (seed, choice, index of the token in the
// request's output) and of the request's own logits and tokens: never of its place or its
// neighbours in a batch.
//
// Order: logit bias; repetition, frequency and presence penalty; masked ids; greedy, or
// temperature, top-k, top-p, min-p, typical-p and a draw. Each filter works on the probabilities
// that the ones before it left, renormalised:
//   repetition_penalty  logits of ids in prompt or output: divided where positive, else multiplied
//   frequency_penalty   subtracted once for every time that an id is in the output
//   presence_penalty    subtracted once if an id is in the output
//   top_k      the k largest logits, of equals the lowest ids
//   top_p      the fewest most likely tokens that reach probability p together
//   min_p      tokens with at least min_p times the probability of the most likely one
//   typical_p  tokens whose surprise is nearest to the entropy, until they reach p; equals stay
// The first five change what is greedy too.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/threads.h"

namespace headrace::engine {

struct SamplingParams {
  double temperature = 0;  // 0: greedy
  uint32_t top_k = 0;      // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off
  double typical_p = 1;    // 1: off
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // an id at most once
  std::vector<std::string> stop;                      // texts that end the output
  std::vector<int32_t> stop_token_ids;
  std::optional<uint32_t> logprobs;  // how many of the most likely to list; null: not asked for
  uint32_t n = 1;                    // outputs of one prompt
  uint32_t max_tokens = 256, min_tokens = 0;
  uint64_t seed = 0;
  bool ignore_eos = false;
};

// Throws Error(kUsage) for a value outside its range, naming it as a field ("top_p") or as a flag
// ("--top-p"). Ids are held to `vocabulary` where it is not 0.
enum class Naming : uint8_t { kField, kFlag };
void check(const SamplingParams& params, uint64_t vocabulary = 0, Naming naming = Naming::kField);

// The seed of a request that gives none of its own, from that of the run and the request's id.
uint64_t seed_of(uint64_t run_seed, std::string_view request_id);

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};
struct TokenLogprobs {  // natural logarithms, from the raw logits
  int32_t id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  // most likely first, of equals the lowest id first
};

// Holds scratch for one vocabulary, at most 16 bytes a word, allocated when first needed: after
// that a call allocates nothing. One thread at a time.
class Sampler {
 public:
  // `pool`, if there is one, shares out the sums of weights.
  explicit Sampler(uint64_t vocabulary, ThreadPool* pool = nullptr);

  // `choice` says which of n outputs this is; `masked` are ids that may not be drawn now. Throws
  // Error(kFailed) when the logits hold a NaN or +infinity, or nothing is left to draw.
  int32_t sample(std::span<const float> logits, const SamplingParams& params, uint32_t choice,
                 std::span<const int32_t> prompt, std::span<const int32_t> output,
                 std::span<const int32_t> masked);

  TokenLogprobs logprobs(std::span<const float> logits, int32_t id, uint32_t k) const;

 private:
  struct Candidate {
    float logit;
    uint32_t id;
  };
  struct Scale {
    double top, by;  // weight of a logit: e^((logit - top) * by)
  };
  std::span<const float> adjust(std::span<const float> logits, const SamplingParams& params,
                                std::span<const int32_t> prompt, std::span<const int32_t> output,
                                std::span<const int32_t> masked);
  void gather(std::span<const float> row, double least);
  void keep_top_k(std::span<const float> row, size_t k);
  void keep_top_p(double p, double sum);
  void keep_min_p(double p);
  void keep_typical(double p);
  int32_t draw_from_row(std::span<const float> row, double uniform);
  int32_t draw_from_candidates(double uniform);
  double weight(const Candidate& c) const;
  double sum_of_candidates() const;

  uint64_t vocabulary_;
  ThreadPool* pool_;
  Scale scale_{};
  std::vector<float> adjusted_;
  std::vector<uint32_t> seen_;  // of an id: times in the output, and a bit for the prompt
  std::vector<Candidate> candidates_;
  std::vector<double> blocks_;  // sums of weights
};

}  // namespace headrace::engine
