#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace::engine {
namespace {

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  Sampler sampler(5);
  const std::vector<float> logits = {1, 3, 3, -1, 2};
  EXPECT_EQ(sampler.sample(logits, {}, 0), 1);
  EXPECT_EQ(sampler.sample(logits, {.temperature = 2, .top_k = 1}, 7), 1);
}

TEST(Sampler, TopKAndTopPKeepOnlyTheLikely) {
  Sampler sampler(4);
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  std::set<int32_t> k2, p70;
  for (uint64_t i = 0; i < 400; ++i) {
    k2.insert(sampler.sample(logits, {.temperature = 1, .top_k = 2, .seed = 3}, i));
    p70.insert(sampler.sample(logits, {.temperature = 1, .top_p = 0.7, .seed = 3}, i));
  }
  EXPECT_EQ(k2, (std::set<int32_t>{0, 1}));
  EXPECT_EQ(p70, (std::set<int32_t>{0, 1}));
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  Random random(test::seed(), 11);
  const size_t n = 6;
  std::vector<float> logits(n);
  for (float& x : logits) x = random.normal();
  double sum = 0;
  for (float x : logits) sum += std::exp(x / 0.7);
  Sampler sampler(n);
  std::vector<int> counts(n);
  constexpr int kDraws = 60000;
  for (uint64_t i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(sampler.sample(logits, {.temperature = 0.7, .seed = 5}, i))];
  }
  for (size_t i = 0; i < n; ++i) {
    const double p = std::exp(logits[i] / 0.7) / sum;
    EXPECT_NEAR(counts[i] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;
  }
}

TEST(Sampler, ADrawDependsOnSeedAndIndexAlone) {
  const std::vector<float> logits = {0.1f, 0.2f, 0.3f, 0.25f};
  Sampler a(4), b(4);
  const SamplingParams params{.temperature = 1.3, .top_p = 0.95, .seed = 42};
  std::vector<int32_t> forward, backward(50);
  for (uint64_t i = 0; i < 50; ++i) forward.push_back(a.sample(logits, params, i));
  for (uint64_t i = 50; i-- > 0;) backward[i] = b.sample(logits, params, i);
  EXPECT_EQ(forward, backward);
}

TEST(Sampler, RefusesWhatIsNotANumberOrOutOfRange) {
  Sampler sampler(2);
  const std::vector<float> logits = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(sampler.sample(logits, {}, 0), Error);
  const std::vector<float> infinite = {std::numeric_limits<float>::infinity(), 1};
  EXPECT_THROW(sampler.sample(infinite, {.temperature = 1}, 0), Error);
  const std::vector<float> masked = {-std::numeric_limits<float>::infinity(), 1};
  EXPECT_EQ(sampler.sample(masked, {.temperature = 1}, 0), 1);
  EXPECT_THROW(check(SamplingParams{.temperature = -1}), Error);
  EXPECT_THROW(check(SamplingParams{.top_p = 0}), Error);
  EXPECT_THROW(check(SamplingParams{.temperature = std::nan("")}), Error);
}

}  // namespace
}  // namespace headrace::engine
