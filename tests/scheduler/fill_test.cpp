#include "scheduler/fill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <set>

#include "scheduler/policy.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

using testing::make_workload;

struct Pooled {
  Workload workload;
  Plan plan;
};

// A mixture of experts whose pool has `slots` slots; `resident` experts of each layer stay.
Pooled make_pooled(uint32_t layers, uint32_t experts, uint32_t per_token, uint32_t slots,
                   uint32_t resident = 0) {
  Pooled out;
  out.workload = make_workload(
      {.layers = layers, .experts = experts, .experts_per_token = per_token, .chunk = 256 * kKiB});
  const Room room{.host = kGiB * 4};
  auto d = find_policy("pin")->decide(out.workload, testing::make_machine(), room, {});
  for (const SegmentSpec& s : out.workload.segments) {
    if (s.kind != SegmentKind::kExperts) continue;
    for (uint32_t e = resident; e < s.candidates.size(); ++e) {
      std::fill(d->home[s.candidates[e]].begin(), d->home[s.candidates[e]].end(), Home::kDisk);
    }
  }
  d->pool_slots = {slots};
  out.plan = expand(out.workload, *d, room);
  return out;
}

std::vector<uint32_t> choose(Random& random, uint32_t of, uint32_t most) {
  std::set<uint32_t> out;
  const uint32_t n = static_cast<uint32_t>(random.between(1, most));
  while (out.size() < n) out.insert(static_cast<uint32_t>(random.below(of)));
  return {out.begin(), out.end()};
}

// Least recently used, as a list with the latest in front.
class NaiveLru {
 public:
  explicit NaiveLru(size_t slots) : slots_(slots) {}
  // The keys that must be fetched. What a wave takes it keeps until the wave ends.
  std::set<uint64_t> use(const std::vector<uint64_t>& keys) {
    std::set<uint64_t> missed;
    for (uint64_t key : keys) {
      if (std::find(kept_.begin(), kept_.end(), key) == kept_.end()) missed.insert(key);
    }
    for (bool hit : {true, false}) {
      for (uint64_t key : keys) {
        if (missed.contains(key) == hit) continue;
        kept_.remove(key);
        kept_.push_front(key);
        if (kept_.size() > slots_) kept_.pop_back();
      }
    }
    return missed;
  }

 private:
  size_t slots_;
  std::list<uint64_t> kept_;
};

TEST(Fill, FetchesWhatAnLruCacheMisses) {
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const uint32_t experts = static_cast<uint32_t>(random.between(2, 16));
    const uint32_t slots = static_cast<uint32_t>(random.between(1, 40));
    const uint32_t resident = static_cast<uint32_t>(random.below(experts));
    const Pooled s = make_pooled(3, experts, 2, slots, resident);
    PoolState state = initial_state(s.plan.pools.at(0));
    NaiveLru naive(slots);
    Filled out;
    for (int pass = 0; pass < 30; ++pass) {
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        const auto choices = choose(random, experts, experts);
        fill(s.plan, s.workload, hole, choices, state, out);
        std::vector<uint64_t> keys;
        const auto& candidates = s.workload.segments[hole.segment].candidates;
        for (uint32_t c : choices) {
          if (c >= resident) keys.push_back(candidates[c]);
        }
        const std::set<uint64_t> missed = naive.use(keys);
        Bytes bytes = 0;
        std::set<uint32_t> seen;
        for (const Pick& pick : out.picks) {
          EXPECT_TRUE(seen.insert(pick.candidate).second);
          EXPECT_EQ(pick.fetch, missed.contains(candidates[pick.candidate]));
          EXPECT_EQ(pick.slot.space == Space::kResident, pick.candidate < resident);
          if (pick.fetch) bytes += s.workload.objects[candidates[pick.candidate]].bytes();
        }
        EXPECT_EQ(seen, std::set<uint32_t>(choices.begin(), choices.end()));
        EXPECT_EQ(out.bytes, bytes);
        EXPECT_EQ(out.operations, missed.size() * 4);
      }
    }
  }
}

// Within a wave no slot is given twice, hits come before fetches, and each half is in order.
TEST(Fill, WavesAreWellFormed) {
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    const uint32_t slots = static_cast<uint32_t>(random.between(1, 6));
    const Pooled s = make_pooled(2, 24, 2, slots);
    PoolState state = initial_state(s.plan.pools.at(0));
    Filled out;
    for (int pass = 0; pass < 20; ++pass) {
      const Hole& hole = s.plan.holes[1 + random.below(2)];
      const auto choices = choose(random, 24, 24);
      fill(s.plan, s.workload, hole, choices, state, out);
      uint32_t begin = 0;
      for (uint32_t end : out.wave_end) {
        ASSERT_LT(begin, end);
        EXPECT_LE(end - begin, slots);
        std::set<uint32_t> taken;
        for (uint32_t p = begin; p < end; ++p) {
          const Pick& pick = out.picks[p];
          EXPECT_LT(pick.slot.index, slots);
          EXPECT_TRUE(taken.insert(pick.slot.index).second);
          if (p == begin) continue;
          const Pick& before = out.picks[p - 1];
          EXPECT_LE(before.fetch, pick.fetch);
          if (before.fetch == pick.fetch) {
            EXPECT_LT(before.candidate, pick.candidate);
          }
        }
        begin = end;
      }
      EXPECT_EQ(begin, choices.size());
    }
  }
}

TEST(Fill, NothingChosenIsNothingMoved) {
  const Pooled s = make_pooled(1, 4, 1, 2);
  PoolState state = initial_state(s.plan.pools.at(0));
  Filled out;
  fill(s.plan, s.workload, s.plan.holes.at(1), {}, state, out);
  EXPECT_TRUE(out.picks.empty() && out.wave_end.empty());
  EXPECT_EQ(out.bytes + out.operations, 0u);
}

// Counted bytes of uniform choices lie within the bounds in every pass and near the expectation on
// average.
TEST(Fill, BytesAreWithinWhatHoleBytesSays) {
  for (uint64_t i = 0; i < test::cases(40); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 2, i);
    const uint32_t layers = static_cast<uint32_t>(random.between(1, 4));
    const uint32_t experts = static_cast<uint32_t>(random.between(4, 16));
    const uint32_t per_token = static_cast<uint32_t>(random.between(1, 3));
    const uint32_t slots = static_cast<uint32_t>(random.between(1, layers * experts));
    const uint32_t rows = static_cast<uint32_t>(random.between(1, 6));
    const Pooled s = make_pooled(layers, experts, per_token, slots);
    PoolState state = initial_state(s.plan.pools.at(0));
    Filled out;
    double counted = 0, expected = 0, scale = 0;
    constexpr int kPasses = 300, kWarm = 50;
    for (int pass = 0; pass < kPasses; ++pass) {
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        std::set<uint32_t> distinct;
        for (uint32_t r = 0; r < rows; ++r) {
          std::set<uint32_t> row;
          while (row.size() < per_token) row.insert(static_cast<uint32_t>(random.below(experts)));
          distinct.insert(row.begin(), row.end());
        }
        const std::vector<uint32_t> choices(distinct.begin(), distinct.end());
        fill(s.plan, s.workload, hole, choices, state, out);
        const HoleBytes bytes = hole_bytes(s.plan, s.workload, hole, rows);
        EXPECT_GE(out.bytes, bytes.least);
        EXPECT_LE(out.bytes, bytes.most);
        EXPECT_LE(bytes.least, bytes.expected);
        EXPECT_LE(bytes.expected, bytes.most);
        if (pass < kWarm) continue;
        counted += static_cast<double>(out.bytes);
        expected += static_cast<double>(bytes.expected);
        scale += static_cast<double>(choices.size() * kMiB);
      }
    }
    EXPECT_NEAR(counted / scale, expected / scale, 0.12)
        << layers << " layers, " << experts << " experts, " << per_token << " a token, " << rows
        << " rows, " << slots << " slots";
  }
}

}  // namespace
}  // namespace headrace::scheduler
