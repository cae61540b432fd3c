#include "scheduler/fill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <set>

#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

using testing::make_pooled;
using testing::make_workload;
using testing::Pooled;

std::vector<Choice> choose(Random& random, uint32_t of, uint32_t most) {
  std::set<uint32_t> out;
  const uint32_t n = static_cast<uint32_t>(random.between(1, most));
  while (out.size() < n) out.insert(static_cast<uint32_t>(random.below(of)));
  std::vector<Choice> choices;
  for (uint32_t c : out) choices.push_back({c, 1 + static_cast<uint32_t>(random.below(3))});
  return choices;
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
    const Pooled s = make_pooled(3, experts, 2, slots, resident, Evict::kRecency);
    PoolState state = initial_state(s.plan, s.workload, 0);
    NaiveLru naive(slots);
    Filled out;
    for (int pass = 0; pass < 30; ++pass) {
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        const auto choices = choose(random, experts, experts);
        fill(s.plan, s.workload, hole, choices, state, out);
        std::vector<uint64_t> keys;
        const auto& candidates = s.workload.segments[hole.segment].candidates;
        for (const Choice& c : choices) {
          if (c.candidate >= resident) keys.push_back(candidates[c.candidate]);
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
        EXPECT_EQ(seen.size(), choices.size());
        for (const Choice& c : choices) EXPECT_TRUE(seen.contains(c.candidate));
        EXPECT_EQ(out.bytes, bytes);
        EXPECT_EQ(out.operations, missed.size() * 4);
      }
    }
  }
}

// Hits come before fetches, each half in order; a slot changes hands only after the pick that had
// it, and never while as many fetches may be under way as are asked for at once.
TEST(Fill, SlotsChangeHandsInOrder) {
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    const uint32_t slots = static_cast<uint32_t>(random.between(1, 30));
    const Evict evict = random.below(2) == 0 ? Evict::kRecency : Evict::kForecast;
    const Pooled s = make_pooled(2, 24, 2, slots, 0, evict);
    PoolState state = initial_state(s.plan, s.workload, 0);
    Filled out;
    for (int pass = 0; pass < 20; ++pass) {
      const Hole& hole = s.plan.holes[1 + random.below(2)];
      const auto choices = choose(random, 24, 24);
      fill(s.plan, s.workload, hole, choices, state, out);
      std::map<uint32_t, uint32_t> holder;  // of a slot: the pick
      for (uint32_t p = 0; p < out.picks.size(); ++p) {
        const Pick& pick = out.picks[p];
        ASSERT_LT(pick.slot.index, slots);
        const auto before = holder.find(pick.slot.index);
        EXPECT_EQ(pick.after, before == holder.end() ? kNone : before->second);
        if (pick.after != kNone) {
          EXPECT_TRUE(pick.fetch);
          EXPECT_GE(p - pick.after, std::min(slots, 16u));
        }
        holder[pick.slot.index] = p;
        if (p == 0) continue;
        EXPECT_LE(out.picks[p - 1].fetch, pick.fetch);
        if (out.picks[p - 1].fetch == pick.fetch) {
          EXPECT_LT(out.picks[p - 1].candidate, pick.candidate);
        }
      }
      EXPECT_EQ(out.picks.size(), choices.size());
      EXPECT_EQ(out.hits, std::count_if(out.picks.begin(), out.picks.end(),
                                        [](const Pick& pick) { return !pick.fetch; }));
    }
  }
}

TEST(Fill, NothingChosenIsNothingMoved) {
  const Pooled s = make_pooled(1, 4, 1, 2);
  PoolState state = initial_state(s.plan, s.workload, 0);
  Filled out;
  fill(s.plan, s.workload, s.plan.holes.at(1), {}, state, out);
  EXPECT_TRUE(out.picks.empty());
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
    const Evict evict = random.below(2) == 0 ? Evict::kRecency : Evict::kForecast;
    const Pooled s = make_pooled(layers, experts, per_token, slots, 0, evict);
    PoolState state = initial_state(s.plan, s.workload, 0);
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
        std::vector<Choice> choices;
        for (uint32_t c : distinct) choices.push_back({c, 1});
        fill(s.plan, s.workload, hole, choices, state, out);
        const HoleBytes bytes = hole_bytes(s.plan, s.workload, hole, decoding(rows));
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

// What was seen of passes like these is expected again; of a smaller pool, its power of the share
// that picks without favourites would miss.
TEST(Fill, ExpectationFollowsTheLocalityThatWasSeen) {
  constexpr uint32_t kLayers = 4, kExperts = 16, kTop = 4;
  Pooled s = make_pooled(kLayers, kExperts, kTop, 32);
  const Bytes even_bytes = holes_bytes(s.plan, s.workload, decoding(1)).expected;
  const double even = even_miss_share(s.plan, s.workload, 1);
  ASSERT_GT(even, 0.3);
  ASSERT_LT(even, 0.7);
  s.workload.localities = {{.rows = 1, .even = even, .missed = even / 4},
                           {.rows = 64, .even = even, .missed = 0.9, .doubt = 1}};
  EXPECT_NEAR(even_miss_share(s.plan, s.workload, 1), even, 1e-9);
  EXPECT_NEAR(static_cast<double>(holes_bytes(s.plan, s.workload, decoding(1)).expected),
              static_cast<double>(even_bytes) / 4, kMiB);
  EXPECT_NEAR(*expected_hit_rate(s.plan, s.workload, 1), 1 - even / 4, 1e-9);
  // Half as many picks as rows that pick for themselves would come to.
  s.workload.localities[0].picked = 0.5 * kTop / kExperts;
  EXPECT_NEAR(static_cast<double>(holes_bytes(s.plan, s.workload, decoding(1)).expected),
              static_cast<double>(even_bytes) / 8, kMiB);
  s.workload.localities[0] = {.rows = 1, .even = std::sqrt(even), .missed = even};
  EXPECT_NEAR(*expected_hit_rate(s.plan, s.workload, 1), 1 - even * even, 1e-9);
}

// One row was seen to miss less than an even share; rows of several requests share no favourites.
TEST(Fill, MoreRowsThanWereSeenHaveLessLocality) {
  constexpr uint32_t kTop = 4, kExperts = 16;
  Pooled s = make_pooled(4, kExperts, kTop, 32);
  const double even = even_miss_share(s.plan, s.workload, 1);
  s.workload.localities = {{.rows = 1, .even = even, .missed = std::pow(even, 5)}};
  double power = 5, before = 0;
  for (uint32_t rows = 1; rows <= 8; ++rows) {
    const double here = even_miss_share(s.plan, s.workload, rows);
    const double missed = 1 - *expected_hit_rate(s.plan, s.workload, rows);
    EXPECT_NEAR(missed, std::pow(here, power), 1e-9) << rows << " rows";
    EXPECT_GT(missed, before);
    before = missed;
    power = 1 + (power - 1) * (1 - double{kTop} / kExperts);
  }
}

// A pool smaller than one token's cycle: the least recently wanted is what comes next, so recency
// never hits; the forecast keeps some of every layer.
TEST(Fill, APoolSmallerThanACycleStillHits) {
  constexpr uint32_t kLayers = 8, kExperts = 16, kTop = 4;
  for (const Evict evict : {Evict::kRecency, Evict::kForecast}) {
    const Pooled s = make_pooled(kLayers, kExperts, kTop, kLayers * kTop / 2, 0, evict);
    PoolState state = initial_state(s.plan, s.workload, 0);
    Random random(test::seed() + 5, 0);
    Filled out;
    uint64_t hits = 0, picks = 0;
    for (int pass = 0; pass < 200; ++pass) {
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        std::set<uint32_t> picked;  // half of them are the layer's favourites
        while (picked.size() < kTop) {
          picked.insert(static_cast<uint32_t>(random.below(random.below(2) ? 3 : kExperts)));
        }
        std::vector<Choice> choices;
        for (uint32_t c : picked) choices.push_back({c, 1});
        fill(s.plan, s.workload, hole, choices, state, out);
        hits += out.hits;
        picks += choices.size();
      }
    }
    const double rate = static_cast<double>(hits) / static_cast<double>(picks);
    if (evict == Evict::kRecency) {
      EXPECT_EQ(hits, 0u);
    } else {
      EXPECT_GT(rate, 0.25);
    }
  }
}

// Whatever a pass wants, each candidate is fetched once at most, and what the pool held is not
// fetched at all: the bytes are those of the distinct candidates less what was there.
TEST(Fill, APassReadsEveryExpertOnce) {
  for (uint64_t i = 0; i < test::cases(40); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 6, i);
    const uint32_t slots = static_cast<uint32_t>(random.between(1, 20));
    const Pooled s = make_pooled(3, 24, 2, slots);
    PoolState state = initial_state(s.plan, s.workload, 0);
    Filled out;
    uint32_t hits = 0;
    for (int pass = 0; pass < 10; ++pass) {
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        std::vector<Choice> all;
        for (uint32_t c = 0; c < 24; ++c) all.push_back({c, 20});
        fill(s.plan, s.workload, hole, all, state, out);
        EXPECT_EQ(out.bytes, (24 - out.hits) * kMiB);
        EXPECT_EQ(out.operations, (24 - out.hits) * 4u);
        EXPECT_LE(out.hits, slots);
        hits += out.hits;
      }
    }
    // Slots beyond those that fetches pass through keep what they hold from pass to pass.
    if (slots > 17) {
      EXPECT_GT(hits, 0u);
    }
  }
}

// Twice the same decisions from the same state, whatever was decided before.
TEST(Fill, ReplaysToTheSameDecisions) {
  Random random(test::seed() + 7, 0);
  const Pooled s = make_pooled(4, 16, 3, 20);
  PoolState one = initial_state(s.plan, s.workload, 0);
  std::vector<uint64_t> picks(16);
  for (uint64_t& p : picks) p = random.below(100);
  one.forecast.seed(0, 100, picks);
  PoolState two = one;
  Filled a, b;
  for (int pass = 0; pass < 200; ++pass) {
    for (const Hole& hole : s.plan.holes) {
      if (hole.source == Source::kTokens) continue;
      const auto choices = choose(random, 16, pass % 10 == 0 ? 16 : 3);
      fill(s.plan, s.workload, hole, choices, one, a);
      fill(s.plan, s.workload, hole, choices, two, b);
      ASSERT_EQ(a.picks.size(), b.picks.size());
      for (size_t p = 0; p < a.picks.size(); ++p) {
        ASSERT_EQ(a.picks[p].slot, b.picks[p].slot);
        ASSERT_EQ(a.picks[p].fetch, b.picks[p].fetch);
      }
    }
  }
}

// At a model's end rows pick whose logits are wanted: perhaps none of a prompt's.
TEST(Fill, HolesAtTheEndCountWantedRows) {
  constexpr uint32_t kRows = 40, kTop = 3;
  Pooled s = make_pooled(4, 12, kTop, 2);
  const Hole& last = s.plan.holes.back();
  ASSERT_EQ(last.source, Source::kRouter);
  const auto bytes = [&](uint32_t rows, uint32_t outputs) {
    return hole_bytes(s.plan, s.workload, last, {.rows = rows, .outputs = outputs});
  };
  const HoleBytes all = bytes(kRows, 1);
  s.workload.segments[last.segment].per_output = true;
  const HoleBytes none = bytes(kRows, 0), one = bytes(kRows, 1), every = bytes(kRows, kRows);
  EXPECT_EQ(none.most, 0u);
  EXPECT_EQ(none.expected, 0u);
  EXPECT_EQ(none.least, 0u);
  EXPECT_EQ(one.most, kTop * all.most / 12);
  EXPECT_GT(one.least, 0u);
  EXPECT_EQ(every.expected, all.expected);
  EXPECT_EQ(every.most, all.most);
}

// The bytes of whole passes lie within what holes_bytes says of them.
TEST(Fill, PassesAreWithinWhatHolesBytesSays) {
  for (uint64_t i = 0; i < test::cases(30); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 8, i);
    const uint32_t rows = static_cast<uint32_t>(random.between(1, 3));
    const Pooled s = make_pooled(4, 12, 3, static_cast<uint32_t>(random.between(1, 48)));
    PoolState state = initial_state(s.plan, s.workload, 0);
    const HoleBytes bytes = holes_bytes(s.plan, s.workload, decoding(rows));
    EXPECT_LE(bytes.least, bytes.expected);
    EXPECT_LE(bytes.expected, bytes.most);
    Filled out;
    for (int pass = 0; pass < 40; ++pass) {
      Bytes moved = 0;
      for (const Hole& hole : s.plan.holes) {
        if (hole.source == Source::kTokens) continue;
        std::map<uint32_t, uint32_t> counts;
        for (uint32_t r = 0; r < rows; ++r) {
          std::set<uint32_t> row;  // often the same ones
          while (row.size() < 3) row.insert(static_cast<uint32_t>(random.below(pass % 2 ? 12 : 4)));
          for (uint32_t c : row) ++counts[c];
        }
        std::vector<Choice> choices;
        for (const auto& [c, n] : counts) choices.push_back({c, n});
        fill(s.plan, s.workload, hole, choices, state, out);
        moved += out.bytes;
      }
      EXPECT_GE(moved, bytes.least);
      EXPECT_LE(moved, bytes.most);
    }
  }
}

}  // namespace
}  // namespace headrace::scheduler
