#include "scheduler/first_need.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

// By page of the arena: its place in the order.
std::vector<size_t> places_of(const std::vector<ArenaRange>& ranges, Bytes arena) {
  std::vector<size_t> places((arena + kHugePage - 1) / kHugePage, SIZE_MAX);
  size_t place = 0;
  for (const ArenaRange& range : ranges) {
    EXPECT_GT(range.bytes, 0u);
    for (Bytes at = range.offset; at < range.offset + range.bytes; at += kHugePage) {
      EXPECT_EQ(at % kHugePage, 0u);
      if (at / kHugePage >= places.size()) {
        ADD_FAILURE() << at << " is past the arena";
        return places;
      }
      EXPECT_EQ(places[at / kHugePage], SIZE_MAX) << "twice";
      places[at / kHugePage] = place++;
    }
  }
  EXPECT_EQ(place, places.size()) << "pages are left out";
  return places;
}

// Walking through what enter loads into residents, no page may come that others come before.
void expect_in_order(const Plan& plan, const Workload& workload, Tier tier,
                     const std::vector<size_t>& places) {
  size_t reached = 0;
  for (const Task& task : plan.enter.tasks) {
    if (task.to.space != Space::kResident) return;  // rings follow: see the test of pages
    const Resident& resident = plan.residents[task.to.index];
    if (resident.tier != tier) continue;
    const Bytes bytes =
        std::min(task.bytes, workload.objects[resident.object].chunks[resident.chunk]);
    for (Bytes at = resident.offset; at < resident.offset + bytes; at += kBlock) {
      const size_t place = places[at / kHugePage];
      ASSERT_LE(place, reached) << "needed before what comes before it";
      reached = std::max(reached, place + 1);
    }
  }
}

TEST(FirstNeed, EveryPageOnceInTheOrderOfTheReads) {
  Random random(test::seed());
  size_t plans = 0;
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const testing::Planned planned = testing::random_plan(random);
    for (const Tier tier : {Tier::kHost, Tier::kDevice}) {
      const Bytes arena = planned.plan.arena_bytes[tier == Tier::kDevice ? 0 : 1];
      const std::vector<size_t> places = places_of(first_needed(planned.plan, tier), arena);
      expect_in_order(planned.plan, planned.workload, tier, places);
      plans += arena != 0 ? 1 : 0;
    }
  }
  EXPECT_GT(plans, 0u);
}

// Residents lie the other way round than they are loaded, and the ring before them.
TEST(FirstNeed, FollowsTheTasksAndNotTheAddresses) {
  Plan plan;
  plan.arena_bytes[1] = 5 * kHugePage;
  plan.rings = {{.tier = Tier::kHost, .slots = 2, .step = 3, .slot_bytes = kHugePage}};
  plan.residents = {{.chunk = 0, .offset = 4 * kHugePage}, {.chunk = 1, .offset = 3 * kHugePage}};
  const auto fetch = [](Space space, uint32_t index) {
    return Task{.kind = TaskKind::kFetch,
                .lane = Lane::kDiskRead,
                .object = 0,
                .to = {space, 0, index},
                .bytes = kHugePage};
  };
  plan.enter.tasks = {fetch(Space::kResident, 0), fetch(Space::kRing, 1),
                      fetch(Space::kResident, 1)};
  plan.steady.tasks = {fetch(Space::kRing, 2)};
  const std::vector<ArenaRange> expected = {{4 * kHugePage, kHugePage},
                                            {1 * kHugePage, kHugePage},
                                            {3 * kHugePage, kHugePage},
                                            {0 * kHugePage, kHugePage},
                                            {2 * kHugePage, kHugePage}};
  EXPECT_EQ(first_needed(plan, Tier::kHost), expected);
  EXPECT_TRUE(first_needed(plan, Tier::kDevice).empty());
}

}  // namespace
}  // namespace headrace::scheduler
