// The sampler against a plain float64 implementation of the same definitions, against the logits
// processors of transformers (golden file), and against the distribution that it must draw from.
#include "engine/sampler.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "engine/softmax.h"
#include "tests/support/seed.h"

namespace headrace::engine {
namespace {

using Ids = std::vector<int32_t>;

int32_t sample(Sampler& sampler, const std::vector<float>& logits, const SamplingParams& params,
               size_t index, uint32_t choice = 0) {
  const Ids output(index, 0);
  return sampler.sample(logits, params, choice, {}, output, {});
}

// ---- An independent implementation: probabilities of all tokens, straight from the definitions.

std::vector<double> adjusted(const std::vector<float>& logits, const SamplingParams& p,
                             const Ids& prompt, const Ids& output, const Ids& masked) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const auto& [id, bias] : p.logit_bias) x[static_cast<size_t>(id)] += bias;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto times = std::count(output.begin(), output.end(), id);
    if (times + std::count(prompt.begin(), prompt.end(), id) > 0) {
      x[i] = x[i] > 0 ? x[i] / p.repetition_penalty : x[i] * p.repetition_penalty;
    }
    if (times > 0) x[i] -= p.presence_penalty + static_cast<double>(times) * p.frequency_penalty;
  }
  for (int32_t id : masked) x[static_cast<size_t>(id)] = -INFINITY;
  for (double& v : x) v = static_cast<float>(v);  // logits are float32, also where they are changed
  return x;
}

std::vector<double> softmax(const std::vector<double>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  std::vector<double> p;
  double sum = 0;
  for (double v : x) p.push_back(std::exp(v - top)), sum += p.back();
  for (double& v : p) v /= sum;
  return p;
}

// Ids by `key`, the least first, equals by id.
template <typename Key>
std::vector<size_t> order_by(size_t n, const Key& key) {
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  return order;
}

std::vector<double> naive(std::vector<double> x, const SamplingParams& params) {
  for (double& v : x) v /= params.temperature;
  const auto remove = [&](const std::set<size_t>& kept) {
    for (size_t i = 0; i < x.size(); ++i) {
      if (!kept.contains(i)) x[i] = -INFINITY;
    }
  };
  if (params.top_k != 0 && params.top_k < x.size()) {
    const auto order = order_by(x.size(), [&](size_t i) { return -x[i]; });
    remove({order.begin(), order.begin() + params.top_k});
  }
  if (params.top_p < 1) {
    const std::vector<double> p = softmax(x);
    std::set<size_t> kept;
    double reached = 0;
    for (size_t i : order_by(x.size(), [&](size_t j) { return -x[j]; })) {
      if (reached >= params.top_p) break;
      kept.insert(i);
      reached += p[i];
    }
    remove(kept);
  }
  if (params.min_p > 0) {
    const std::vector<double> p = softmax(x);
    std::set<size_t> kept;
    const double most = *std::max_element(p.begin(), p.end());
    for (size_t i = 0; i < x.size(); ++i) {
      if (p[i] >= params.min_p * most) kept.insert(i);
    }
    remove(kept);
  }
  if (params.typical_p < 1) {
    const std::vector<double> p = softmax(x);
    double entropy = 0;
    for (double v : p) entropy -= v > 0 ? v * std::log(v) : 0;
    const auto distance = [&](size_t i) {
      return p[i] > 0 ? std::abs(-std::log(p[i]) - entropy) : INFINITY;
    };
    std::set<size_t> kept;
    double reached = 0;
    for (size_t i : order_by(x.size(), distance)) {
      if (reached >= params.typical_p) break;
      kept.insert(i);
      reached += p[i];
    }
    remove(kept);
  }
  return softmax(x);
}

// What many draws of the sampler show.
std::map<int32_t, int> draws(Sampler& sampler, const std::vector<float>& logits,
                             const SamplingParams& params, const Ids& prompt, const Ids& output,
                             const Ids& masked, uint32_t count) {
  std::map<int32_t, int> seen;
  for (uint32_t choice = 0; choice < count; ++choice) {
    ++seen[sampler.sample(logits, params, choice, prompt, output, masked)];
  }
  return seen;
}

SamplingParams random_params(Random& random, size_t vocabulary) {
  SamplingParams p;
  p.temperature = 0.3 + 1.5 * random.uniform();
  p.seed = random.next_u64();
  if (random.chance(0.4)) p.top_k = static_cast<uint32_t>(random.between(2, vocabulary));
  if (random.chance(0.4)) p.top_p = 0.05 + 0.94 * random.uniform();
  if (random.chance(0.3)) p.min_p = 0.3 * random.uniform();
  if (random.chance(0.3)) p.typical_p = 0.1 + 0.89 * random.uniform();
  if (random.chance(0.4)) p.repetition_penalty = 0.7 + random.uniform();
  if (random.chance(0.4)) p.presence_penalty = random.normal();
  if (random.chance(0.4)) p.frequency_penalty = 0.3 * random.normal();
  std::set<int32_t> biased;
  while (random.chance(0.4)) {
    const auto id = static_cast<int32_t>(random.below(vocabulary));
    if (biased.insert(id).second) p.logit_bias.emplace_back(id, 3 * random.normal());
  }
  return p;
}

// 5 deviations around the expected count, and the tokens that may not come never do.
void expect_drawn_from(const std::vector<double>& p, const std::map<int32_t, int>& seen,
                       uint32_t count) {
  for (size_t i = 0; i < p.size(); ++i) {
    const auto at = seen.find(static_cast<int32_t>(i));
    const double times = at == seen.end() ? 0 : at->second;
    if (p[i] == 0) {
      EXPECT_EQ(times, 0) << "token " << i << " was filtered out";
    } else {
      EXPECT_NEAR(times, count * p[i], 5 * std::sqrt(count * p[i] * (1 - p[i])) + 3) << i;
    }
  }
}

TEST(Sampler, DrawsFromTheDistributionOfThePlainImplementation) {
  Random random(test::seed(), 21);
  const uint64_t cases = test::cases(60);
  for (uint64_t c = 0; c < cases; ++c) {
    const size_t n = random.between(2, 40);
    std::vector<float> logits(n);
    for (float& x : logits) x = 2 * random.normal();
    if (random.chance(0.2)) logits[0] = logits[n - 1];  // equals
    Ids prompt, output, masked;
    for (uint64_t i = random.below(12); i-- > 0;) prompt.push_back(int32_t(random.below(n)));
    for (uint64_t i = random.below(12); i-- > 0;) output.push_back(int32_t(random.below(n)));
    if (n > 4 && random.chance(0.3)) masked = {1, 3};
    const SamplingParams params = random_params(random, n);
    SCOPED_TRACE(test::seed_note(c) + fmt::format(": T {} k {} p {} min-p {} typical {}",
                                                  params.temperature, params.top_k, params.top_p,
                                                  params.min_p, params.typical_p));
    Sampler sampler(n);
    constexpr uint32_t kDraws = 4000;
    expect_drawn_from(naive(adjusted(logits, params, prompt, output, masked), params),
                      draws(sampler, logits, params, prompt, output, masked, kDraws), kDraws);
    SamplingParams greedy = params;
    greedy.temperature = 0;
    const std::vector<double> x = adjusted(logits, params, prompt, output, masked);
    EXPECT_EQ(sampler.sample(logits, greedy, 0, prompt, output, masked),
              std::max_element(x.begin(), x.end()) - x.begin());
  }
}

// Large rows take the paths in blocks, the pre-selection of top-p and the partial sorts.
TEST(Sampler, DrawsOfLargeVocabulariesStayWithinTheFilters) {
  Random random(test::seed(), 22);
  for (const size_t n : {1000u, 5001u, 40000u}) {
    std::vector<float> logits(n);
    const float width = random.chance(0.5) ? 1 : 4;
    for (float& x : logits) x = width * random.normal();
    Sampler sampler(n);
    for (const SamplingParams& form :
         {SamplingParams{.top_k = 50}, SamplingParams{.top_k = 700}, SamplingParams{.top_p = 0.9},
          SamplingParams{.top_p = 0.9999}, SamplingParams{.min_p = 0.05},
          SamplingParams{.typical_p = 0.8}, SamplingParams{.top_k = 600, .top_p = 0.5}}) {
      SamplingParams params = form;
      params.temperature = 0.5 + random.uniform();
      params.seed = random.next_u64();
      const auto p = naive(adjusted(logits, params, {}, {}, {}), params);
      // In four heaps of equal weight, and none from the filtered ones.
      std::vector<double> cumulated(n);
      std::partial_sum(p.begin(), p.end(), cumulated.begin());
      std::vector<double> heap(4);
      std::vector<double> share(4);
      for (size_t i = 0; i < n; ++i) share[std::min(3, int(cumulated[i] * 4))] += p[i];
      constexpr uint32_t kDraws = 400;
      for (const auto& [id, times] : draws(sampler, logits, params, {}, {}, {}, kDraws)) {
        EXPECT_GT(p[static_cast<size_t>(id)], 0) << id;
        heap[std::min(3, int(cumulated[static_cast<size_t>(id)] * 4))] += times;
      }
      for (size_t h = 0; h < 4; ++h) {
        EXPECT_NEAR(heap[h], kDraws * share[h],
                    5 * std::sqrt(kDraws * share[h] * (1 - share[h])) + 1);
      }
    }
  }
}

TEST(Sampler, EqualsGoToTheLowerId) {
  Sampler sampler(5);
  EXPECT_EQ(sample(sampler, {1, 3, 3, -1, 2}, {}, 0), 1);
  EXPECT_EQ(sample(sampler, {-0.f, 0.f, -1, -1, -1}, {}, 0), 0);
  EXPECT_EQ(sample(sampler, {1, 3, 3, -1, 2}, {.temperature = 2, .top_k = 1}, 7), 1);
  Random random(test::seed(), 23);
  std::vector<float> logits(3000);
  for (float& x : logits) x = static_cast<float>(random.below(5));
  const auto largest = std::max_element(logits.begin(), logits.end());
  Sampler wide(logits.size());
  EXPECT_EQ(sample(wide, logits, {}, 0), largest - logits.begin());
  std::set<int32_t> lowest, seen;
  for (size_t i = 0; lowest.size() < 7; ++i) {
    if (logits[i] == *largest) lowest.insert(static_cast<int32_t>(i));
  }
  for (size_t i = 0; i < 300; ++i)
    seen.insert(sample(wide, logits, {.temperature = 1, .top_k = 7}, i));
  EXPECT_EQ(seen, lowest);
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  Random random(test::seed(), 11);
  const size_t n = 6;
  std::vector<float> logits(n);
  for (float& x : logits) x = random.normal();
  double sum = 0;
  for (float x : logits) sum += std::exp(x / 0.7);
  Sampler sampler(n);
  constexpr uint32_t kDraws = 60000;
  const auto seen = draws(sampler, logits, {.temperature = 0.7, .seed = 5}, {}, {}, {}, kDraws);
  for (size_t i = 0; i < n; ++i) {
    const double p = std::exp(logits[i] / 0.7) / sum;
    const double share = seen.contains(int32_t(i)) ? seen.at(int32_t(i)) / double{kDraws} : 0;
    EXPECT_NEAR(share, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;
  }
}

TEST(Sampler, ADrawDependsOnSeedChoiceAndIndexAlone) {
  const std::vector<float> logits = {0.1f, 0.2f, 0.3f, 0.25f};
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1.3, .top_p = 0.95, .seed = 42},
        SamplingParams{.temperature = 1.3, .seed = 42},
        SamplingParams{.temperature = 1.3, .repetition_penalty = 1.1, .seed = 42}}) {
    Sampler a(4), b(4);
    Ids forward, backward(50), other_seed, other_choice;
    for (size_t i = 0; i < 50; ++i) forward.push_back(sample(a, logits, params, i, 3));
    for (size_t i = 50; i-- > 0;) {
      sample(b, {9, 8, 7, 6}, {.temperature = 2, .top_k = 3, .typical_p = 0.5}, i);  // a neighbour
      backward[i] = sample(b, logits, params, i, 3);
    }
    EXPECT_EQ(forward, backward);
    SamplingParams reseeded = params;
    reseeded.seed = 43;
    for (size_t i = 0; i < 50; ++i) {
      other_seed.push_back(sample(a, logits, reseeded, i, 3));
      other_choice.push_back(sample(a, logits, params, i, 4));
    }
    EXPECT_NE(forward, other_seed);
    EXPECT_NE(forward, other_choice);
  }
  EXPECT_EQ(seed_of(1, "a"), seed_of(1, "a"));
  EXPECT_NE(seed_of(1, "a"), seed_of(1, "b"));
  EXPECT_NE(seed_of(1, "a"), seed_of(2, "a"));
}

TEST(Sampler, FiltersThatKeepAllChangeNoDraw) {
  Random random(test::seed(), 24);
  std::vector<float> logits(300);
  for (float& x : logits) x = random.normal();
  Sampler sampler(300);
  for (size_t i = 0; i < 100; ++i) {
    const int32_t plain = sample(sampler, logits, {.temperature = 1}, i);
    EXPECT_EQ(plain, sample(sampler, logits, {.temperature = 1, .top_k = 300}, i));
    EXPECT_EQ(plain, sample(sampler, logits, {.temperature = 1, .top_k = 1000000}, i));
    EXPECT_EQ(plain, sample(sampler, logits, {.temperature = 1, .min_p = 1e-9}, i));
  }
}

TEST(Sampler, LogprobsAreThoseOfTheRawLogits) {
  Random random(test::seed(), 25);
  for (const size_t n : {5u, 777u, 20000u}) {
    std::vector<float> logits(n);
    for (float& x : logits) x = 3 * random.normal();
    logits[n - 1] = logits[1];
    const auto p = softmax({logits.begin(), logits.end()});
    const auto order = order_by(n, [&](size_t i) { return -logits[i]; });
    Sampler sampler(n);
    const auto id = static_cast<int32_t>(random.below(n));
    for (const uint32_t k : {0u, 1u, 5u, 600u, 100000u}) {
      const TokenLogprobs got = sampler.logprobs(logits, id, k);
      EXPECT_EQ(got.id, id);
      EXPECT_NEAR(got.logprob, std::log(p[size_t(id)]), 1e-5);
      ASSERT_EQ(got.top.size(), std::min<size_t>(k, n));
      for (size_t i = 0; i < got.top.size(); ++i) {
        ASSERT_EQ(got.top[i].id, static_cast<int32_t>(order[i])) << i;
        EXPECT_NEAR(got.top[i].logprob, std::log(p[order[i]]), 1e-5);
      }
    }
  }
}

TEST(Sampler, RefusesWhatIsNotANumberOrOutOfRange) {
  Sampler sampler(2);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(sample(sampler, {1, nan}, {}, 0), Error);
  EXPECT_THROW(sample(sampler, {-nan, 1}, {}, 0), Error);
  EXPECT_THROW(sample(sampler, {kInf, 1}, {.temperature = 1}, 0), Error);
  EXPECT_THROW(sample(sampler, {kInf, 1}, {.logit_bias = {{0, 1.f}}}, 0), Error);
  EXPECT_EQ(sample(sampler, {-kInf, 1}, {.temperature = 1}, 0), 1);
  EXPECT_THROW(sampler.sample(std::vector<float>{1, 2}, {}, 0, {}, {}, Ids{0, 1}), Error);
  const std::pair<const char*, SamplingParams> refused[] = {
      {"temperature", {.temperature = -1}},
      {"temperature", {.temperature = std::nan("")}},
      {"top_p", {.top_p = 0}},
      {"min_p", {.min_p = 1.5}},
      {"typical_p", {.typical_p = 0}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"presence_penalty", {.presence_penalty = std::nan("")}},
      {"frequency_penalty", {.frequency_penalty = 1e9}},
      {"logit_bias", {.logit_bias = {{2, 1.f}}}},
      {"logit_bias", {.logit_bias = {{0, kInf}}}},
      {"stop", {.stop = {""}}},
      {"stop_token_ids", {.stop_token_ids = {-1}}},
      {"stop_token_ids", {.stop_token_ids = {2}}},
      {"logprobs", {.logprobs = 100000}},
      {"n", {.n = 0}},
      {"max_tokens", {.max_tokens = 1u << 31}}};
  for (const auto& [field, params] : refused) {
    try {
      check(params, 2);
      ADD_FAILURE() << field;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_EQ(error.field(), field);
    }
  }
  try {
    check({.min_p = -1}, 0, Naming::kFlag);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.field(), "--min-p");
  }
}

TEST(Softmax, TheExponentialIsWithinTwoUnits) {
  Random random(test::seed(), 26);
  for (int i = 0; i < 200000; ++i) {
    const double x = -708 * std::pow(random.uniform(), 3);
    const double want = std::exp(x);
    ASSERT_NEAR(exp_negative(x) / want, 1, 5e-16) << x;
  }
  EXPECT_EQ(exp_negative(0), 1);
  EXPECT_EQ(exp_negative(-1e300), 0);
  EXPECT_EQ(exp_negative(-INFINITY), 0);
}

// One order, whoever sums: blocks in turn, in each sixteen sums side by side.
TEST(Softmax, SumsAreTheSameOnAnyThreads) {
  ThreadPool alone(1), three(3);
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 27, i);
    std::vector<float> row(random.between(1, 9000));
    for (float& x : row) x = random.normal() * 40;
    const double top = peak_of(row).value, scale = random.uniform() * 3;
    double want = 0;
    for (size_t begin = 0; begin < row.size(); begin += kSumBlock) {
      const size_t size = std::min(kSumBlock, row.size() - begin);
      std::vector<double> lanes(16);
      for (size_t j = 0; j < size; ++j) {
        lanes[j % 16] += exp_negative((row[begin + j] - top) * scale);
      }
      want += std::accumulate(lanes.begin(), lanes.end(), 0.0);
    }
    std::vector<double> blocks((row.size() + kSumBlock - 1) / kSumBlock), others = blocks;
    EXPECT_EQ(sum_of_weights(row, top, scale), want);
    EXPECT_EQ(sum_of_weights(row, top, scale, blocks, &alone), want);
    EXPECT_EQ(sum_of_weights(row, top, scale, others, &three), want);
    EXPECT_EQ(blocks, others);
  }
}

// Kept sets of transformers' processors: tests/golden/make_sampling.py.
TEST(Sampler, KeepsWhatTransformersKeeps) {
  const json::value file = read_json(HEADRACE_GOLDEN_SAMPLING "/sampling.json");
  size_t cases = 0;
  for (const json::value& c : file.at("cases").as_array()) {
    const auto logits = json::value_to<std::vector<float>>(c.at("logits"));
    const auto want = json::value_to<std::vector<float>>(c.at("processed"));
    const auto numbers = c.at("params").as_object();
    const auto number = [&](const char* key, double neutral) {
      const json::value* v = numbers.if_contains(key);
      return v == nullptr ? neutral : v->to_number<double>();
    };
    SamplingParams p{.temperature = number("temperature", 1),
                     .top_k = static_cast<uint32_t>(number("top_k", 0)),
                     .top_p = number("top_p", 1),
                     .min_p = number("min_p", 0),
                     .typical_p = number("typical_p", 1),
                     .repetition_penalty = number("repetition_penalty", 1)};
    const auto prompt = json::value_to<Ids>(c.at("ids"));
    SCOPED_TRACE(to_text(c.at("params")));
    std::vector<double> expected(want.size());
    double sum = 0;
    for (size_t i = 0; i < want.size(); ++i) sum += expected[i] = std::exp(double{want[i]});
    for (double& x : expected) x /= sum;
    Sampler sampler(logits.size());
    constexpr uint32_t kDraws = 3000;
    expect_drawn_from(expected, draws(sampler, logits, p, prompt, {}, {}, kDraws), kDraws);
    ++cases;
  }
  EXPECT_GE(cases, 20u);
}

}  // namespace
}  // namespace headrace::engine
