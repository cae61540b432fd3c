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
#include "tests/support/seed.h"

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

TEST(Search, FindsValidPlansForAnyBudgetOrSaysWhatWouldDo) {
  uint32_t fitted = 0, refused = 0;
  for (uint64_t i = 0; i < test::cases(150); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const Workload w = testing::random_workload(random);
    const Machine m = testing::random_machine(random);
    Budgets b = testing::random_budgets(random, w);
    const Choices c = testing::random_choices(random);
    try {
      const Plan plan = search(w, m, b, c);
      ++fitted;
      EXPECT_EQ(violations(plan, w), std::vector<std::string>{});
      EXPECT_EQ(plan.memory.total(), plan.budget);
      EXPECT_LE(plan.bound_bytes, plan.bytes);
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

TEST(Search, SaysTheSameTwice) {
  for (uint64_t i = 0; i < test::cases(10); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    const testing::Planned p = testing::random_plan(random);
    EXPECT_EQ(print_plan(search(p.workload, p.machine, p.budgets, p.choices)), print_plan(p.plan));
  }
}

// The winner takes no longer than any plan of any policy, number of rows and depth that fits.
TEST(Search, BeatsEveryPinnedChoice) {
  for (uint64_t i = 0; i < test::cases(10); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 2, i);
    Workload w = make_workload({.layers = 4, .layer_bytes = 16 * kMiB, .chunk = 512 * kKiB});
    w.rows_wanted = static_cast<uint32_t>(random.between(1, 64));
    w.prompt_tokens = 1;
    w.generated_tokens = 1000;
    const Machine m = testing::random_machine(random);
    const Budgets b{.memory = testing::needs_of(w) + random.between(8, 72) * kMiB};
    const Plan best = search(w, m, b, {});
    for (const Policy& policy : policies()) {
      for (uint32_t depth : {0u, 1u, 3u, 8u, 16u}) {
        Choices c{.policy = policy.name};
        if (c.policy != "sync") c.prefetch_depth = depth;
        try {
          const Plan other = search(w, m, b, c);
          EXPECT_LE(best.predicted_s, other.predicted_s * 1.03) << policy.name << " " << depth;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
        }
      }
    }
  }
}

// With the batch fixed, as much stays as fits; where rows are free and the disk is slow, a long
// prompt is worth more rows than residents (docs/design/001-plan.md).
TEST(Search, PinsForDecodingAndStreamsForLongPrompts) {
  Workload w = make_workload({.layers = 8, .layer_bytes = 32 * kMiB});
  w.needs.activation_per_row = 512 * kKiB;
  w.prompt_tokens = 1;
  w.generated_tokens = 200;
  w.rows_wanted = 256;
  Machine m = make_machine();
  const Budgets b{.memory = testing::needs_of(w) + 160 * kMiB};
  const Plan decode = search(w, m, b, {});
  EXPECT_EQ(decode.policy, "pin");
  EXPECT_EQ(decode.rows_max, 1u);
  EXPECT_GE(decode.memory.resident_weights + decode.memory.stream_ring, 158 * kMiB);
  EXPECT_GE(decode.memory.resident_weights, 130 * kMiB);

  w.prompt_tokens = 100000;
  w.generated_tokens = 0;
  m.matmul_flops_f32 = 100e12;  // far below the break-even number of rows: reading binds
  const Plan prompt = search(w, m, b, {});
  EXPECT_GE(prompt.rows_max, 256u);
  EXPECT_LE(prompt.memory.resident_weights, 40 * kMiB);
}

TEST(Search, KeepsEverythingWhenItFits) {
  const Workload w = make_workload({});
  const Budgets b{.memory = testing::needs_of(w, 128) + testing::weights_of(w) + 2 * kMiB};
  const Plan plan = search(w, make_machine(), b, {});
  EXPECT_EQ(plan.bytes, 0u);
  EXPECT_EQ(plan.memory.resident_weights, testing::weights_of(w));
  EXPECT_TRUE(plan.rings.empty() && plan.pools.empty());
  EXPECT_TRUE(plan.steady.after.empty());
}

TEST(Search, RefusesByName) {
  const Workload w = make_workload({});
  const Machine m = make_machine();
  const Budgets b{.memory = kGiB};
  const auto field = [&](const Budgets& budgets, const Choices& choices) {
    try {
      search(w, m, budgets, choices);
    } catch (const Error& error) {
      return std::string(name_of(error.code())) + " " + error.field();
    }
    return std::string("fits");
  };
  EXPECT_EQ(field(b, {}), "fits");
  EXPECT_EQ(field(b, {.policy = "best"}), "usage policy");
  EXPECT_EQ(field(b, {.policy = "sync", .prefetch_depth = 2}), "usage prefetch_depth");
  EXPECT_EQ(field(b, {.prefetch_depth = 1u << 31}), "usage prefetch_depth");
  EXPECT_EQ(field({.memory = kGiB, .kv_memory = kMiB / 8}, {}), "infeasible kv_memory");
  EXPECT_EQ(field({.memory = 0}, {}), "infeasible memory");
  EXPECT_EQ(field({.memory = kGiB, .device_memory = kMiB}, {}), "infeasible device_memory");
  Workload absurd = w;
  absurd.needs.kv_block = ~Bytes{0} / 2;
  EXPECT_THROW(search(absurd, m, b, {}), Error);
}

// 32 layers in 2000 chunks: planning is to take less than 50 ms. What is asserted leaves room for
// a busy machine and a build that checks everything.
TEST(Search, IsQuick) {
  Workload w = make_workload(
      {.layers = 32, .layer_bytes = 120 * kMiB, .embedding_bytes = 64 * kMiB, .chunk = 2 * kMiB});
  w.generated_tokens = 100;
  const Budgets b{.memory = testing::needs_of(w) + 2 * kGiB};
  const auto begin = std::chrono::steady_clock::now();
  const Plan plan = search(w, make_machine(), b, {});
  const auto end = std::chrono::steady_clock::now();
  const double ms = std::chrono::duration<double, std::milli>(end - begin).count();
  std::printf("[ INFO ] %zu tasks planned in %.1f ms: %s\n", plan.steady.tasks.size(), ms,
              plan.why.c_str());
  EXPECT_LT(ms, 2000);
}

}  // namespace
}  // namespace headrace::scheduler
