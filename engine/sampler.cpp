#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "engine/softmax.h"

namespace headrace::engine {

namespace {

constexpr uint32_t kInPrompt = 1u << 31;
constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr double kMostLogit = std::numeric_limits<float>::max();

// Limits of what a request may ask for.
constexpr uint32_t kTokensMax = 1u << 24, kChoicesMax = 1024, kLogprobsMax = 1024, kStopsMax = 64;
constexpr size_t kStopBytesMax = 4096;

constexpr auto kMoreLikely = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

// The k largest of a row, most likely first, in one pass: candidates that beat the k-th so far
// gather behind it until there are as many again, then all but the best k go.
template <typename Candidate>
void select_top(std::span<const float> row, size_t k, std::vector<Candidate>& best) {
  constexpr size_t kBlock = 64;
  const size_t room = std::min(row.size(), k + std::max<size_t>(k, 256));
  best.clear();
  best.reserve(room);
  float least = kMasked;  // of the best k so far; beaten, not equalled: equals come with higher ids
  const auto trim = [&] {
    const auto kth = best.begin() + static_cast<ptrdiff_t>(k) - 1;
    std::nth_element(best.begin(), kth, best.end(), kMoreLikely);
    least = kth->logit;
    best.resize(k);
  };
  for (size_t begin = 0; begin < row.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, row.size());
    int32_t any = 0;
    for (size_t i = begin; i < end; ++i) any |= row[i] > least;
    if (any == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      if (!(row[i] > least)) continue;
      if (best.size() == room) trim();
      if (row[i] > least) best.push_back({row[i], static_cast<uint32_t>(i)});
    }
  }
  if (best.size() > k) trim();
  std::sort(best.begin(), best.end(), kMoreLikely);
}

// How many of the first in order of `less` weigh `target` together, at least one: these come to the
// front, in any order but for the last of them, which stays last. Halves until few are left, so the
// whole is never sorted.
template <typename Item, typename Less, typename Weight>
size_t select_weight(std::vector<Item>& items, const Less& less, const Weight& weight,
                     double target) {
  constexpr size_t kFew = 128;
  const auto at = [&](size_t i) { return items.begin() + static_cast<ptrdiff_t>(i); };
  double before = 0;  // weight of the items before `low`, which all belong to the front
  size_t low = 0, high = items.size();
  while (high - low > kFew) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), less);
    double sum = before;
    for (size_t i = low; i < middle; ++i) sum += weight(items[i]);
    if (sum >= target) {
      high = middle;
    } else {
      low = middle, before = sum;
    }
  }
  std::sort(at(low), at(high), less);
  while (low < high && before < target) before += weight(items[low++]);
  return std::max<size_t>(low, 1);
}

struct Fault {
  std::string field, range;
};

std::string flag_of(const std::string& field) {
  if (field == "n") return "--num-return-sequences";
  std::string flag = "--" + field;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::optional<Fault> fault_of_numbers(const SamplingParams& p) {
  // Not a number is in no range, hence the negations.
  if (!(p.temperature >= 0 && p.temperature <= 100)) return Fault{"temperature", "0 to 100"};
  if (!(p.top_p > 0 && p.top_p <= 1)) return Fault{"top_p", "more than 0, at most 1"};
  if (!(p.min_p >= 0 && p.min_p <= 1)) return Fault{"min_p", "0 to 1"};
  if (!(p.typical_p > 0 && p.typical_p <= 1)) return Fault{"typical_p", "more than 0, at most 1"};
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 100)) {
    return Fault{"repetition_penalty", "more than 0, at most 100"};
  }
  if (!(std::abs(p.presence_penalty) <= 100)) return Fault{"presence_penalty", "-100 to 100"};
  if (!(std::abs(p.frequency_penalty) <= 100)) return Fault{"frequency_penalty", "-100 to 100"};
  if (p.max_tokens > kTokensMax) return Fault{"max_tokens", fmt::format("0 to {}", kTokensMax)};
  if (p.min_tokens > kTokensMax) return Fault{"min_tokens", fmt::format("0 to {}", kTokensMax)};
  if (p.n == 0 || p.n > kChoicesMax) return Fault{"n", fmt::format("1 to {}", kChoicesMax)};
  if (p.logprobs.value_or(0) > kLogprobsMax) {
    return Fault{"logprobs", fmt::format("0 to {}", kLogprobsMax)};
  }
  return std::nullopt;
}

std::optional<Fault> fault_of_lists(const SamplingParams& p, uint64_t vocabulary) {
  const auto bad_id = [&](int32_t id) {
    return id < 0 || (vocabulary != 0 && static_cast<uint64_t>(id) >= vocabulary);
  };
  const std::string ids = vocabulary == 0 ? "token ids of 0 or more"
                                          : fmt::format("token ids from 0 to {}", vocabulary - 1);
  for (const auto& [id, bias] : p.logit_bias) {
    if (bad_id(id)) return Fault{"logit_bias", ids};
    if (!std::isfinite(bias)) return Fault{"logit_bias", "finite numbers"};
  }
  for (const int32_t id : p.stop_token_ids) {
    if (bad_id(id)) return Fault{"stop_token_ids", ids};
  }
  for (const std::string& text : p.stop) {
    if (text.empty() || text.size() > kStopBytesMax) {
      return Fault{"stop", fmt::format("texts of 1 to {} bytes", kStopBytesMax)};
    }
  }
  if (p.stop.size() > kStopsMax) return Fault{"stop", fmt::format("at most {}", kStopsMax)};
  return std::nullopt;
}

}  // namespace

void check(const SamplingParams& params, uint64_t vocabulary, Naming naming) {
  std::optional<Fault> fault = fault_of_numbers(params);
  if (!fault) fault = fault_of_lists(params, vocabulary);
  if (!fault) return;
  const std::string name = naming == Naming::kFlag ? flag_of(fault->field) : fault->field;
  throw Error(ErrorCode::kUsage, fmt::format("{}: out of range; give {}", name, fault->range))
      .at_field(name);
}

uint64_t seed_of(uint64_t run_seed, std::string_view request_id) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a, 64 bits
  for (const char c : request_id) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  }
  const auto bits = philox(run_seed, hash, request_id.size());
  return uint64_t{bits[0]} << 32 | bits[1];
}

Sampler::Sampler(uint64_t vocabulary, ThreadPool* pool)
    : vocabulary_(vocabulary), pool_(pool), blocks_((vocabulary + kSumBlock - 1) / kSumBlock) {}

double Sampler::weight(const Candidate& c) const {
  return exp_negative((c.logit - scale_.top) * scale_.by);
}

double Sampler::sum_of_candidates() const {
  double sum = 0;
  for (const Candidate& c : candidates_) sum += weight(c);
  return sum;
}

std::span<const float> Sampler::adjust(std::span<const float> logits, const SamplingParams& params,
                                       std::span<const int32_t> prompt,
                                       std::span<const int32_t> output,
                                       std::span<const int32_t> masked) {
  const bool repeats = params.repetition_penalty != 1;
  const bool counts = params.presence_penalty != 0 || params.frequency_penalty != 0;
  const bool penal = repeats || (counts && !output.empty());
  if (!penal && params.logit_bias.empty() && masked.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  const auto each = [&](std::span<const int32_t> ids, auto&& f) {
    for (const int32_t id : ids) {
      if (id >= 0 && static_cast<uint64_t>(id) < vocabulary_) f(static_cast<size_t>(id));
    }
  };
  // What is infinite or no number stays so, and is found later.
  const auto set = [&](size_t id, double value) {
    if (!std::isfinite(adjusted_[id])) return;
    adjusted_[id] = static_cast<float>(std::clamp(value, -kMostLogit, kMostLogit));
  };
  for (const std::pair<int32_t, float>& bias : params.logit_bias) {
    each({&bias.first, 1}, [&](size_t i) { set(i, double{adjusted_[i]} + bias.second); });
  }
  if (penal) {
    if (seen_.empty()) seen_.assign(vocabulary_, 0);
    each(output, [&](size_t id) { ++seen_[id]; });
    if (repeats) each(prompt, [&](size_t id) { seen_[id] |= kInPrompt; });
    // The first visit of an id settles it and clears its count for the next call.
    const auto settle = [&](size_t id) {
      if (seen_[id] == 0) return;
      const uint32_t times = seen_[id] & ~kInPrompt;
      seen_[id] = 0;
      double x = adjusted_[id];
      x = x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
      x -= times * params.frequency_penalty + (times != 0 ? params.presence_penalty : 0);
      set(id, x);
    };
    each(output, settle);
    each(prompt, settle);
  }
  each(masked, [&](size_t id) { adjusted_[id] = kMasked; });
  return adjusted_;
}

// Candidates: all whose logit is at least `least`, by id.
void Sampler::gather(std::span<const float> row, double least) {
  candidates_.clear();
  candidates_.reserve(vocabulary_);
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] >= least && row[i] > kMasked) {
      candidates_.push_back({row[i], static_cast<uint32_t>(i)});
    }
  }
}

void Sampler::keep_top_k(std::span<const float> row, size_t k) { select_top(row, k, candidates_); }

void Sampler::keep_top_p(double p, double sum) {
  candidates_.resize(select_weight(
      candidates_, kMoreLikely, [&](const Candidate& c) { return weight(c); }, p * sum));
}

void Sampler::keep_min_p(double p) {
  std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < p; });
}

void Sampler::keep_typical(double p) {
  const double sum = sum_of_candidates();
  const double log_sum = std::log(sum);
  const auto surprise = [&](const Candidate& c) {
    return log_sum - (c.logit - scale_.top) * scale_.by;
  };
  double entropy = 0;
  for (const Candidate& c : candidates_) {
    const double w = weight(c);
    if (w != 0) entropy += w / sum * surprise(c);
  }
  const auto distance = [&](const Candidate& c) { return std::abs(surprise(c) - entropy); };
  const auto nearer = [&](const Candidate& a, const Candidate& b) {
    const double x = distance(a), y = distance(b);
    return x != y ? x < y : a.id < b.id;
  };
  const size_t kept = select_weight(
      candidates_, nearer, [&](const Candidate& c) { return weight(c); }, p * sum);
  const double last = distance(candidates_[kept - 1]);
  const auto end =
      std::partition(candidates_.begin() + static_cast<ptrdiff_t>(kept), candidates_.end(),
                     [&](const Candidate& c) { return distance(c) == last; });
  candidates_.erase(end, candidates_.end());
}

int32_t Sampler::draw_from_row(std::span<const float> row, double uniform) {
  double left = uniform * sum_of_weights(row, scale_.top, scale_.by, blocks_, pool_);
  size_t block = 0, last = 0;
  for (;; ++block) {
    if (blocks_[block] > 0) last = block;
    if (block + 1 == blocks_.size() || left < blocks_[block]) break;
    left -= blocks_[block];
  }
  // Sums in another order differ in their last bits: where nothing is left over it is the last
  // token with a weight.
  const size_t begin = last * kSumBlock;
  size_t id = begin;
  for (size_t i = begin; i < std::min(begin + kSumBlock, row.size()); ++i) {
    const double w = exp_negative((row[i] - scale_.top) * scale_.by);
    if (w == 0) continue;
    id = i;
    left -= w;
    if (left < 0) break;
  }
  return static_cast<int32_t>(id);
}

int32_t Sampler::draw_from_candidates(double uniform) {
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double left = uniform * sum_of_candidates();
  uint32_t id = candidates_.front().id;
  for (const Candidate& c : candidates_) {
    const double w = weight(c);
    if (w == 0) continue;
    id = c.id;
    left -= w;
    if (left < 0) break;
  }
  return static_cast<int32_t>(id);
}

int32_t Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                        uint32_t choice, std::span<const int32_t> prompt,
                        std::span<const int32_t> output, std::span<const int32_t> masked) {
  HEADRACE_ASSERT(logits.size() == vocabulary_, fmt::format("{} logits", logits.size()));
  const std::span<const float> row = adjust(logits, params, prompt, output, masked);
  const Peak peak = peak_of(row);
  if (peak.value == kMasked) {
    throw Error(ErrorCode::kFailed,
                "logits: no token is left to draw; allow more with logit_bias or min_tokens");
  }
  if (params.temperature == 0 || params.top_k == 1) return static_cast<int32_t>(peak.id);

  scale_ = {.top = peak.value, .by = std::min(1 / params.temperature, 1e300)};
  const auto bits = philox(params.seed, choice, output.size());
  const uint64_t draw = (uint64_t{bits[0]} << 32 | bits[1]) >> 11;
  const double uniform = static_cast<double>(draw) * 0x1p-53;
  const bool top_k = params.top_k != 0 && params.top_k < vocabulary_;
  const bool top_p = params.top_p<1, min_p = params.min_p> 0, typical = params.typical_p < 1;
  if (!top_k && !top_p && !min_p && !typical) return draw_from_row(row, uniform);

  if (top_k) {
    keep_top_k(row, params.top_k);
    if (top_p) keep_top_p(params.top_p, sum_of_candidates());
  } else if (top_p) {
    // All words below this share together hold less than the half of what top-p leaves out.
    const double sum = sum_of_weights(row, scale_.top, scale_.by, blocks_, pool_);
    const double share = 0.5 * (1 - params.top_p) * sum / static_cast<double>(vocabulary_);
    gather(row, scale_.top + std::log(share) / scale_.by);
    keep_top_p(params.top_p, sum);
  } else {
    // One more than min-p needs, so that its own comparison decides.
    gather(row,
           min_p && !typical ? scale_.top + (std::log(params.min_p) - 1) / scale_.by : kMasked);
  }
  if (min_p) keep_min_p(params.min_p);
  if (typical) keep_typical(params.typical_p);
  return draw_from_candidates(uniform);
}

TokenLogprobs Sampler::logprobs(std::span<const float> logits, int32_t id, uint32_t k) const {
  HEADRACE_ASSERT(id >= 0 && static_cast<size_t>(id) < logits.size(), fmt::format("id {}", id));
  const double log_sum = log_sum_exp(logits);
  const auto logprob = [&](float x) { return static_cast<float>(x - log_sum); };
  TokenLogprobs result{id, logprob(logits[static_cast<size_t>(id)]), {}};
  if (k == 0) return result;
  std::vector<Candidate> best;
  select_top(logits, std::min<size_t>(k, logits.size()), best);
  result.top.reserve(best.size());
  for (const Candidate& c : best) {
    result.top.push_back({static_cast<int32_t>(c.id), logprob(c.logit)});
  }
  return result;
}

}  // namespace headrace::engine
