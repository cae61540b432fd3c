#include "scheduler/policy.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "scheduler/packing.h"
#include "scheduler/verify.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

using testing::make_workload;

Choices with_depth(uint32_t depth) { return {.prefetch_depth = depth}; }

TEST(Policies, AreAVisibleList) {
  std::vector<std::string> names;
  for (const Policy& p : policies()) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"stream", "pin", "lru", "sync"}));
  EXPECT_EQ(find_policy("pin")->name, std::string("pin"));
  EXPECT_EQ(find_policy("auto"), nullptr);
}

// Whatever the room, a decision fits it, expands to a valid plan, and exists exactly from the
// least room on.
TEST(Policies, DecideExactlyFromTheLeastRoomOn) {
  const Machine m = testing::make_machine();
  for (uint64_t i = 0; i < test::cases(120); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const Workload w = testing::random_workload(random);
    const Choices c = with_depth(static_cast<uint32_t>(random.below(12)));
    for (const Policy& policy : policies()) {
      SCOPED_TRACE(policy.name);
      const bool device = random.chance(0.5);
      Room room = policy.least_room(take_inventory(w), c, device);
      EXPECT_EQ(room.has_device, device);
      const Room least = room;
      if (random.chance(0.5)) {
        room.host += random.below(testing::weights_of(w));
        if (device) room.device += random.below(testing::weights_of(w));
      }
      const auto decision = policy.decide(w, take_inventory(w), room, c);
      ASSERT_TRUE(decision.has_value());
      const Plan plan = expand(w, *decision, room);  // asserts that the arenas fit
      EXPECT_EQ(violations(plan, w), std::vector<std::string>{});
      EXPECT_LE(plan.arena_bytes[1], room.host);
      EXPECT_LE(plan.arena_bytes[0], room.device);
      Room less = least;
      less.host -= 1;
      EXPECT_FALSE(policy.decide(w, take_inventory(w), less, c).has_value());
      if (!device) continue;
      less = least;
      less.device -= 1;
      less.host += kGiB;
      EXPECT_FALSE(policy.decide(w, take_inventory(w), less, c).has_value());
    }
  }
}

TEST(Policies, WhatStaysAndItsRingNeverExceedTheRoom) {
  for (uint64_t i = 0; i < test::cases(300); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    std::vector<Item> items(random.between(1, 60));
    const Bytes grain = random.between(1, 64) * kBlock;
    Bytes total = 0;
    for (Item& item : items) {
      item.bytes = random.chance(0.7) ? grain : random.between(1, 128) * kBlock;
      item.uses = random.chance(0.1) ? 2 : 1;
      total += item.bytes;
    }
    const uint32_t ahead = static_cast<uint32_t>(random.between(1, 10));
    const Bytes least = least_room_of(size_classes(items), ahead);
    EXPECT_FALSE(keep_spread(items, size_classes(items), least - 1, ahead).has_value());
    const Bytes room = least + random.below(total);
    const auto keep = keep_spread(items, size_classes(items), room, ahead);
    ASSERT_TRUE(keep.has_value());
    std::vector<Item> streamed;
    Bytes kept = 0, smallest = total;
    for (size_t k = 0; k < items.size(); ++k) {
      if ((*keep)[k]) {
        kept += items[k].bytes;
      } else {
        streamed.push_back(items[k]);
        smallest = std::min(smallest, items[k].bytes);
      }
    }
    EXPECT_LE(kept + ring_of(size_classes(streamed), ahead), room);
    EXPECT_EQ(streamed.empty(), total <= room);
    // As much as fits: nothing that streams would fit beside what the largest ring takes.
    if (!streamed.empty() && grain == smallest) {
      EXPECT_GT(kept + smallest + std::min<uint64_t>(ahead, items.size() * 2) * 128 * kBlock,
                std::min(room, total));
    }
  }
}

// Equal chunks: between any two that stream there are as many that stay, give or take one.
TEST(Policies, SpreadIsEven) {
  for (uint64_t i = 0; i < test::cases(100); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 2, i);
    const size_t n = random.between(10, 400);
    const std::vector<Item> items(n, Item{.bytes = 256 * kKiB});
    const uint32_t ahead = 3;
    const Bytes room = random.between(ahead, n - 1) * 256 * kKiB;
    const auto keep = keep_spread(items, size_classes(items), room, ahead);
    ASSERT_TRUE(keep.has_value());
    const size_t kept = static_cast<size_t>(std::count(keep->begin(), keep->end(), 1));
    EXPECT_EQ(kept, room / (256 * kKiB) - ahead);  // to the chunk
    size_t sum = 0;
    for (size_t k = 0; k < n; ++k) {  // every prefix holds its share
      sum += (*keep)[k];
      const double share = static_cast<double>((k + 1) * kept) / static_cast<double>(n);
      EXPECT_NEAR(static_cast<double>(sum), share, 1.0);
    }
  }
}

TEST(Policies, DenseChunksStayBeforeExperts) {
  const Workload w = make_workload({.layers = 4, .experts = 8, .experts_per_token = 2});
  const Inventory inventory = take_inventory(w);
  ASSERT_EQ(inventory.experts.size(), 32u);
  const Machine m = testing::make_machine();
  const Policy& pin = *find_policy("pin");
  const Bytes both = inventory.fixed + inventory.dense_bytes + inventory.embedding_bytes;
  for (Bytes experts : {4 * kMiB, 12 * kMiB, 30 * kMiB}) {
    const Room room{.host = round_up(both + experts, kHugePage)};
    const auto d = pin.decide(w, take_inventory(w), room, with_depth(4));
    ASSERT_TRUE(d.has_value());
    for (const Item& item : inventory.dense) {
      EXPECT_EQ(d->home[item.object][item.chunk], Home::kHost);
    }
    const Plan plan = expand(w, *d, room);
    EXPECT_TRUE(plan.rings.empty());
    EXPECT_GE(plan.pools.back().slots, experts / kMiB - 2);
  }
  const Room all{.host = round_up(inventory.all(), kHugePage)};
  const Plan plan = expand(w, *pin.decide(w, take_inventory(w), all, with_depth(4)), all);
  EXPECT_TRUE(plan.pools.empty());
  for (const Hole& hole : plan.holes) EXPECT_EQ(hole.pool, kNone);
}

// One pool for the embedding, one for all experts; a tied embedding's chunks that stay are used
// where they are.
TEST(Policies, PoolsAreShared) {
  const Workload w =
      make_workload({.layers = 3, .experts = 8, .embedding_bytes = 16 * kMiB, .tied = true});
  const Machine m = testing::make_machine();
  const Policy& stream = *find_policy("stream");
  const Room room = stream.least_room(take_inventory(w), with_depth(1), false);
  const Plan plan = expand(w, *stream.decide(w, take_inventory(w), room, with_depth(1)), room);
  ASSERT_EQ(plan.pools.size(), 2u);
  ASSERT_EQ(plan.holes.size(), 4u);
  EXPECT_EQ(plan.holes[0].source, Source::kTokens);
  EXPECT_EQ(plan.pools[plan.holes[0].pool].slot_bytes, 1 * kMiB);
  for (size_t h = 1; h < plan.holes.size(); ++h) EXPECT_EQ(plan.holes[h].pool, 1u);
}

TEST(Policies, LruKeepsEverythingOrNothing) {
  const Workload w = make_workload({.layers = 4});
  const Machine m = testing::make_machine();
  const Inventory inventory = take_inventory(w);
  const Policy& lru = *find_policy("lru");
  const Room most{.host = round_up(inventory.all(), kHugePage)};
  EXPECT_TRUE(
      expand(w, *lru.decide(w, take_inventory(w), most, with_depth(2)), most).rings.empty());
  const Room half{.host = round_up(inventory.all() / 2, kHugePage)};
  const Plan plan = expand(w, *lru.decide(w, take_inventory(w), half, with_depth(2)), half);
  EXPECT_EQ(plan.memory.resident_weights, inventory.fixed);
  ASSERT_EQ(plan.rings.size(), 1u);
  EXPECT_GT(plan.rings[0].slots, 10u);  // all the room, though three would do
  EXPECT_EQ(plan.bytes_least, inventory.dense_bytes);
}

// A device tier: what the device holds is not copied, what the host holds is not read.
TEST(Policies, ThreeTiersCountEachByteOnce) {
  const Workload w = make_workload({.layers = 6});
  const Machine m = testing::make_machine();
  const Inventory inventory = take_inventory(w);
  for (uint64_t i = 0; i < test::cases(50); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 3, i);
    const Choices c = with_depth(static_cast<uint32_t>(random.below(6)));
    const Policy& policy = policies()[random.below(policies().size())];
    Room room = policy.least_room(take_inventory(w), c, true);
    room.device += random.below(inventory.all());
    room.host += random.below(inventory.all());
    const auto d = policy.decide(w, take_inventory(w), room, c);
    ASSERT_TRUE(d.has_value());
    Bytes from_disk = 0, from_host = 0;
    for (const Item& item : inventory.dense) {
      const Home home = d->home[item.object][item.chunk];
      if (home == Home::kDisk) from_disk += item.bytes;
      if (home == Home::kHost) from_host += item.bytes;
    }
    const Plan plan = expand(w, *d, room);
    Bytes counted_disk = 0, counted_host = 0;
    for (const ByteRow& row : bytes_of(plan.steady)) {
      if (row.edge == Edge{Tier::kDisk, Tier::kDevice})
        counted_disk += row.bytes;
      else if (row.edge == Edge{Tier::kHost, Tier::kDevice})
        counted_host += row.bytes;
      else
        ADD_FAILURE() << name_of(row.edge);
    }
    EXPECT_EQ(counted_disk, from_disk);
    EXPECT_EQ(counted_host, from_host);
  }
}

}  // namespace
}  // namespace headrace::scheduler
