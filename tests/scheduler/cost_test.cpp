// What demand reads cost, against the reads themselves, timed one by one.
#include "scheduler/cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/random.h"
#include "scheduler/fill.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace headrace::scheduler {
namespace {

using testing::make_pooled;
using testing::Pooled;

uint32_t routed_hole(const Plan& plan) {
  uint32_t hole = 0;
  while (plan.holes[hole].source != Source::kRouter) ++hole;
  return hole;
}

struct Sums {
  double wait_s = 0, read_s = 0, chance = 0;
};

// Over all numbers of picks that can be missed, each timed by itself: what is there is computed
// with at once, what is not comes one after the other, and nothing is computed with before it has.
Sums sums_of(const Costs::Demand& demand, double share, double behind_s, double compute_s) {
  const size_t picks = demand.chances.size() - 1;
  std::vector<double> chances{1.0};  // by how many of the picks so far are missed
  for (size_t p = 0; p < picks; ++p) {
    chances.push_back(0);
    for (size_t k = chances.size() - 1; k > 0; --k) {
      chances[k] = chances[k] * (1 - share) + chances[k - 1] * share;
    }
    chances[0] *= 1 - share;
  }
  const double one_s = compute_s / static_cast<double>(picks);
  Sums out;
  for (size_t missed = 0; missed <= picks; ++missed) {
    double computed = one_s * static_cast<double>(picks - missed);
    double come = behind_s + demand.late_s;
    for (size_t m = 0; m < missed; ++m) {
      come += demand.each_s;
      computed = std::max(computed, come) + one_s;
    }
    out.wait_s += chances[missed] * (computed - compute_s);
    if (missed > 0) out.read_s += chances[missed] * (come - behind_s);
    out.chance += chances[missed];
  }
  return out;
}

TEST(Cost, DemandsCostWhatEachNumberOfReadsCosts) {
  for (uint64_t i = 0; i < test::cases(30); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const auto experts = static_cast<uint32_t>(random.between(4, 24));
    const auto top = static_cast<uint32_t>(random.between(1, 4));
    const auto slots = static_cast<uint32_t>(random.between(top, 3 * experts - 1));
    const Pooled s = make_pooled(3, experts, top, std::max(slots, 16u));
    Machine machine = round_machine();
    machine.rates[0].bytes_per_s = static_cast<double>(random.between(100, 4000)) * 1e6;
    Costs costs(s.plan, s.workload, machine);
    const uint32_t hole = routed_hole(s.plan);
    const auto rows = static_cast<uint32_t>(random.between(1, 6));
    const Costs::Demand& demand = costs.demand(hole, decoding(rows));
    ASSERT_EQ(demand.bytes,
              hole_bytes(s.plan, s.workload, s.plan.holes[hole], decoding(rows)).expected);
    if (demand.bytes == 0) continue;
    const double missed = static_cast<double>(demand.bytes) / kMiB;  // experts of 1 MiB each
    const double share = missed / static_cast<double>(demand.chances.size() - 1);
    const double compute_s = static_cast<double>(random.below(10'000)) * 1e-6;
    const double behind_s = static_cast<double>(random.below(2) * random.below(5'000)) * 1e-6;
    const Sums sums = sums_of(demand, std::min(1.0, share), behind_s, compute_s);
    EXPECT_NEAR(sums.chance, 1.0, 1e-9);
    EXPECT_NEAR(demand.wait_s(behind_s, compute_s), sums.wait_s, 1e-9 * (1 + sums.wait_s));
    EXPECT_NEAR(demand.read_s, sums.read_s, 1e-9 * (1 + sums.read_s));
  }
}

// Who mostly misses nothing mostly waits for nothing: a latency a demand is not one a layer.
TEST(Cost, RareMissesRarelyWait) {
  Pooled s = make_pooled(4, 16, 2, 32);
  const double even = even_miss_share(s.plan, s.workload, 1);
  s.workload.localities = {{.rows = 1, .even = even, .missed = 0.01}};
  const Machine machine = round_machine();
  Costs costs(s.plan, s.workload, machine);
  const Costs::Demand& demand = costs.demand(routed_hole(s.plan), {});
  ASSERT_EQ(demand.chances.size(), 3u);
  EXPECT_NEAR(demand.chances[0], 0.99 * 0.99, 1e-6);
  EXPECT_NEAR(demand.chances[1], 2 * 0.01 * 0.99, 1e-6);
  const double alone = demand.late_s + demand.each_s;
  EXPECT_NEAR(demand.wait_s(0, 0), 0.02 * alone, 1e-3 * alone);
  EXPECT_NEAR(demand.wait_s(1.0, 0), 0.02 * (1.0 + alone), 1e-3);
  // Where one is missed the other is computed with meanwhile.
  EXPECT_LT(demand.wait_s(0, alone), 0.015 * alone);
}

// A disk that is held to a rate answers late by its own time, not by what the rate allows it.
TEST(Cost, AHeldDiskAnswersAtItsOwnSpeed) {
  const Pooled s = make_pooled(3, 16, 2, 24);
  const Machine machine = round_machine();
  Machine held = machine;
  held.rates[0].own_bytes_per_s = held.rates[0].bytes_per_s;
  held.rates[0].bytes_per_s /= 8;
  Costs free(s.plan, s.workload, machine), slow(s.plan, s.workload, held);
  const Costs::Demand& a = free.demand(routed_hole(s.plan), {});
  const Costs::Demand& b = slow.demand(routed_hole(s.plan), {});
  EXPECT_DOUBLE_EQ(a.late_s, b.late_s);
  EXPECT_DOUBLE_EQ(8 * a.each_s, b.each_s);
  EXPECT_NE(held.hash(), machine.hash());
}

}  // namespace
}  // namespace headrace::scheduler
