#include "scheduler/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/verify.h"
#include "tests/scheduler/workloads.h"

namespace headrace::scheduler {
namespace {

using testing::make_machine;
using testing::make_workload;
using testing::ModelShape;

uint64_t required_of(const Workload& w, const Machine& m, const Budgets& b, const Choices& c) {
  try {
    search(w, m, b, c);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
    return error.required_bytes();
  }
  return 0;
}

Choices random_choices(Random& random) {
  Choices c;
  const char* names[] = {"auto", "auto", "stream", "pin", "lru", "sync"};
  c.policy = names[random.below(6)];
  if (c.policy != "sync" && random.chance(0.3)) {
    c.prefetch_depth = static_cast<uint32_t>(random.below(20));
  }
  return c;
}

Budgets random_budgets(Random& random, const Workload& w) {
  Budgets b;
  b.memory = testing::needs_of(w) + random.below(testing::weights_of(w) * 3 / 2 + 8 * kMiB);
  if (random.chance(0.4)) {
    b.device_memory = random.below(testing::weights_of(w) + 8 * kMiB);
    b.device_within_memory = random.chance(0.7);
    if (random.chance(0.5)) b.memory += *b.device_memory;
  }
  return b;
}

TEST(Search, FindsValidPlansForAnyBudgetOrSaysWhatWouldDo) {
  const uint64_t seed = testing::test_seed();
  uint32_t fitted = 0, refused = 0;
  for (uint32_t i = 0; i < testing::test_count(150); ++i) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " case " << i);
    Random random(seed, i);
    const Workload w = testing::random_workload(random);
    const Machine m = testing::random_machine(random);
    Budgets b = random_budgets(random, w);
    const Choices c = random_choices(random);
    try {
      const Plan plan = search(w, m, b, c);
      ++fitted;
      EXPECT_EQ(violations(plan, w), std::vector<std::string>{});
      EXPECT_EQ(plan.memory.total(), plan.budget);
      EXPECT_EQ(plan.budget,
                b.memory + (b.device_memory && !b.device_within_memory ? *b.device_memory : 0));
      EXPECT_EQ(plan.alternatives.size(), policies().size() - 1);
      EXPECT_GE(plan.memory.activations, w.needs.activation_fixed);
      if (c.policy != "auto") {
        EXPECT_EQ(plan.policy, c.policy);
      }
      if (c.prefetch_depth) {
        EXPECT_EQ(plan.prefetch_depth, *c.prefetch_depth);
      }
    } catch (const Error& error) {
      ++refused;
      ASSERT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
      if (error.field() == "device_memory") {
        ASSERT_GT(error.required_bytes(), *b.device_memory);
        b.device_memory = error.required_bytes();
        b.memory += *b.device_memory + testing::weights_of(w) + 64 * kMiB;
        EXPECT_NO_THROW(search(w, m, b, c));
        continue;
      }
      ASSERT_GT(error.required_bytes(), b.memory);
      b.memory = error.required_bytes();
      EXPECT_NO_THROW(search(w, m, b, c));
      for (Bytes less : {Bytes{1}, kBlock, 4 * kMiB}) {
        Budgets short_of = b;
        short_of.memory -= less;
        EXPECT_EQ(required_of(w, m, short_of, c), b.memory);
      }
    }
  }
  std::printf("[ INFO ] %u plans, %u refusals\n", fitted, refused);
  EXPECT_GT(fitted, 0u);
}

}  // namespace
}  // namespace headrace::scheduler
