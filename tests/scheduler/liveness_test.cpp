// replay() against a second, plain implementation of the same rules, and the laws of cyclic scans.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "scheduler/bound.h"
#include "scheduler/liveness.h"
#include "tests/support/seed.h"
#include "tests/support/training_strings.h"

namespace headrace::scheduler {
namespace {

// The rules as prose says them: residents in order of arrival, every question answered by a scan.
class Plain {
 public:
  Plain(const std::vector<Access>& string, const std::vector<CacheObject>& objects, double capacity,
        Victim victim, bool dirty_bits)
      : string_(string),
        objects_(objects),
        capacity_(capacity),
        victim_(victim),
        dirty_bits_(dirty_bits),
        last_(objects.size(), 0) {}

  std::vector<StepBytes> run(bool flush) {
    for (size_t t = 0; t < string_.size(); ++t) {
      if (string_[t].end_of_step) {
        steps_.push_back(moved_);
        moved_ = {};
      } else if (string_[t].host_gradient != Access::kNoObject) {
        const auto found = find(string_[t].host_gradient);
        if (found != residents_.end() && found->dirty) out(moved_, found->object);
        drop(string_[t].host_gradient);
        drop(string_[t].host_weight);
      } else {
        operation(t);
      }
    }
    for (const Resident& resident : residents_) {
      const bool leaves = objects_[resident.object].kept && (resident.dirty || !dirty_bits_);
      if (flush && leaves) out(steps_.back(), resident.object);
    }
    return steps_;
  }

 private:
  struct Resident {
    uint32_t object;
    bool dirty;
  };
  std::vector<Resident>::iterator find(uint32_t object) {
    return std::find_if(residents_.begin(), residents_.end(),
                        [&](const Resident& r) { return r.object == object; });
  }
  void drop(uint32_t object) {
    const auto found = find(object);
    if (found == residents_.end()) return;
    used_ -= objects_[object].bytes;
    residents_.erase(found);
  }
  void out(StepBytes& step, uint32_t object) {
    step.out[objects_[object].kind] += objects_[object].bytes;
  }
  static bool has(const std::vector<uint32_t>& list, uint32_t object) {
    return std::find(list.begin(), list.end(), object) != list.end();
  }
  size_t next_use(uint32_t object, size_t after) const {
    for (size_t t = after + 1; t < string_.size(); ++t) {
      const Access& access = string_[t];
      if (has(access.reads, object) || has(access.writes, object)) return t;
      if (access.host_gradient == object) return t;
    }
    return string_.size();
  }
  bool is_worse(const Resident& a, const Resident& b, size_t t) const {  // a is the better victim
    if (victim_ == Victim::kLeastRecentlyUsed) return last_[a.object] < last_[b.object];
    const size_t next_a = next_use(a.object, t), next_b = next_use(b.object, t);
    if (next_a != next_b) return next_a > next_b;
    if (a.dirty != b.dirty) return b.dirty;
    return objects_[a.object].bytes > objects_[b.object].bytes;
  }
  void operation(size_t t) {
    const Access& access = string_[t];
    std::vector<uint32_t> need = access.reads;
    need.insert(need.end(), access.writes.begin(), access.writes.end());
    for (uint32_t object : need) {
      if (find(object) != residents_.end()) continue;
      while (used_ + objects_[object].bytes > capacity_) {
        const Resident* victim = nullptr;
        for (const Resident& r : residents_) {
          if (!has(need, r.object) && (!victim || is_worse(r, *victim, t))) victim = &r;
        }
        if (!victim) throw Error(ErrorCode::kInfeasible, "too small");
        const bool wanted =
            objects_[victim->object].kept || next_use(victim->object, t) < string_.size();
        if (wanted && (victim->dirty || !dirty_bits_)) out(moved_, victim->object);
        drop(victim->object);
      }
      if (has(access.reads, object) && !objects_[object].free_input) {
        moved_.in[objects_[object].kind] += objects_[object].bytes;
      }
      residents_.push_back({object, false});
      used_ += objects_[object].bytes;
    }
    for (uint32_t object : need) last_[object] = t;
    for (uint32_t object : access.writes) find(object)->dirty = true;
    for (uint32_t object : access.dead) drop(object);
  }

  const std::vector<Access>& string_;
  const std::vector<CacheObject>& objects_;
  double capacity_;
  Victim victim_;
  bool dirty_bits_;
  std::vector<size_t> last_;
  std::vector<Resident> residents_;
  double used_ = 0;
  StepBytes moved_;
  std::vector<StepBytes> steps_;
};

void expect_equal(const std::vector<StepBytes>& got, const std::vector<StepBytes>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t s = 0; s < got.size(); ++s) {
    for (size_t k = 0; k < kCacheKinds; ++k) {
      EXPECT_EQ(got[s].in[k], expected[s].in[k]) << "step " << s << " kind " << k;
      EXPECT_EQ(got[s].out[k], expected[s].out[k]) << "step " << s << " kind " << k;
    }
  }
}

std::vector<uint32_t> some(Random& random, uint32_t objects, uint32_t most) {
  std::vector<uint32_t> list(random.below(most + 1));
  for (uint32_t& object : list) object = static_cast<uint32_t>(random.below(objects));
  return list;
}

TEST(Replay, EqualsThePlainRulesOnRandomStrings) {
  const uint64_t count = test::cases(400);
  size_t refused = 0;
  for (uint64_t c = 0; c < count; ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const auto objects = static_cast<uint32_t>(random.between(1, 12));
    std::vector<CacheObject> sizes;
    for (uint32_t o = 0; o < objects; ++o) {
      sizes.push_back({static_cast<double>(random.between(1, 4)), static_cast<uint8_t>(o % 8),
                       random.chance(0.5), random.chance(0.1)});
    }
    std::vector<Access> string(random.between(1, 80));
    for (Access& access : string) {
      if (random.chance(0.05)) {
        access.end_of_step = true;
      } else if (random.chance(0.08)) {
        access.host_gradient = static_cast<uint32_t>(random.below(objects));
        access.host_weight = static_cast<uint32_t>(random.below(objects));
      } else {
        access.reads = some(random, objects, 3);
        access.writes = some(random, objects, 2);
        access.dead = some(random, objects, 1);
      }
    }
    string.emplace_back().end_of_step = true;
    const auto capacity = static_cast<double>(random.between(6, 24));
    const Victim victim =
        random.chance(0.5) ? Victim::kLeastRecentlyUsed : Victim::kFurthestNextUse;
    const bool dirty_bits = random.chance(0.5), flush = random.chance(0.5);
    std::vector<StepBytes> expected;
    try {
      expected = Plain(string, sizes, capacity, victim, dirty_bits).run(flush);
    } catch (const Error&) {
      ++refused;
      EXPECT_THROW(replay(string, sizes, capacity, victim, dirty_bits, flush), Error);
      continue;
    }
    expect_equal(replay(string, sizes, capacity, victim, dirty_bits, flush), expected);
  }
  EXPECT_LT(refused, count / 2);
}

TEST(Replay, EqualsThePlainRulesOnTrainingSteps) {
  const uint64_t count = test::cases(40);
  for (uint64_t c = 0; c < count; ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    TrainingShape shape;
    shape.layers = static_cast<uint32_t>(random.between(2, 6));
    shape.micro_batches = static_cast<uint32_t>(random.between(1, 5));
    shape.group = static_cast<uint32_t>(random.between(1, shape.micro_batches));
    shape.pack = static_cast<uint32_t>(random.between(1, shape.layers));
    shape.steps = 2;
    shape.update = static_cast<Update>(random.below(4));
    shape.fused_turn = random.chance(0.5);
    shape.last_output = !shape.fused_turn;
    shape.snake = random.chance(0.5);
    shape.data_is_free = random.chance(0.5);
    const TrainingSizes sizes{0.25 * static_cast<double>(random.between(1, 40)), 4, 7, 0.7, 0.9};
    const TrainingString made = training_string(shape, sizes);
    const double capacity = sizes.w + 11 + 2 + 10 * random.uniform();
    for (const Victim victim : {Victim::kLeastRecentlyUsed, Victim::kFurthestNextUse}) {
      expect_equal(replay(made.string, made.objects, capacity, victim, true, true),
                   Plain(made.string, made.objects, capacity, victim, true).run(true));
    }
  }
}

// No schedule beats the bound: the best policy at every group size stays above it, and the bound is
// not idle (somewhere within 20 %). Steady steps, whole layers.
TEST(Replay, NeverBeatsTheGroupedBound) {
  const uint64_t count = test::cases(60);
  double closest = 1e9;
  for (uint64_t c = 0; c < count; ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    TrainingShape shape;
    shape.layers = static_cast<uint32_t>(random.between(3, 12));
    shape.micro_batches = static_cast<uint32_t>(random.between(1, 8));
    shape.group = static_cast<uint32_t>(random.between(1, shape.micro_batches));
    shape.steps = 4;
    const bool host = random.chance(0.5);
    shape.update = host ? Update::kHost : Update::kJustInTime;
    const auto unit = [&](uint64_t most) { return static_cast<double>(random.between(1, most)); };
    TrainingSizes sizes{.w = unit(20), .g = unit(20), .k = host ? 0 : unit(40), .x = unit(8)};
    sizes.d = sizes.x;
    const double least = sizes.w + sizes.g + sizes.k + 3 * sizes.x;
    const double capacity = least * (1 + 2 * random.uniform());
    const TrainingString made = training_string(shape, sizes);
    const double got =
        replay(made.string, made.objects, capacity, Victim::kFurthestNextUse).back().total();
    const double bound = grouped_bound({.layers = shape.layers,
                                        .micro_batches = shape.micro_batches,
                                        .group = shape.group,
                                        .weights = sizes.w,
                                        .gradients = sizes.g,
                                        .optimizer = sizes.k,
                                        .activation = sizes.x,
                                        .capacity = capacity,
                                        .host_update = host});
    EXPECT_GE(got, bound * (1 - 1e-12));
    if (bound > 0) closest = std::min(closest, got / bound);
  }
  EXPECT_LT(closest, 1.2);
}

std::vector<Access> cyclic(const std::vector<uint32_t>& order, uint32_t passes) {
  std::vector<Access> string;
  for (uint32_t pass = 0; pass < passes; ++pass) {
    for (uint32_t object : order) string.push_back({.reads = {object}, .writes = {}, .dead = {}});
    string.emplace_back().end_of_step = true;
  }
  return string;
}

// A weight stream is a cyclic scan. LRU evicts what is needed soonest, so a memory one object too
// small keeps nothing; furthest next use keeps all but one object's room.
TEST(CyclicScan, LruMovesEverythingAndNextUseOnlyTheRest) {
  const uint64_t count = test::cases(200);
  for (uint64_t c = 0; c < count; ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const auto objects = static_cast<uint32_t>(random.between(3, 40));
    const auto size = static_cast<double>(random.between(1, 9));
    const auto slots = static_cast<double>(random.between(1, objects - 1));
    std::vector<uint32_t> order(objects);
    std::iota(order.begin(), order.end(), 0u);
    for (uint32_t i = objects; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    const std::vector<CacheObject> sizes(objects, CacheObject{size, 0, true, false});
    const double capacity = slots * size + (size - 1) * random.uniform();
    const double all = objects * size;

    const auto lru = replay(cyclic(order, 6), sizes, capacity, Victim::kLeastRecentlyUsed);
    for (const StepBytes& step : lru) EXPECT_EQ(step.total(), all);

    // Over many passes the mean is (all - slots) objects and the granularity: an object that is
    // brought in must displace one of those that wait, so one slot's worth cannot hit at its turn.
    const uint32_t passes = 4 * objects;
    const auto next = replay(cyclic(order, passes), sizes, capacity, Victim::kFurthestNextUse);
    double sum = 0;
    for (size_t s = objects; s + objects < next.size(); ++s) sum += next[s].total();
    const double mean = sum / static_cast<double>(next.size() - 2 * objects);
    EXPECT_GE(mean, all - slots * size - 1e-9);
    EXPECT_LE(mean, all - slots * size + size + 1e-9);
  }
}

// Unequal objects: the least recently used one is always that whose turn is next, so LRU keeps
// nothing of use here either; and no policy beats size - capacity.
TEST(CyclicScan, LruMovesEverythingForUnequalObjectsToo) {
  const uint64_t count = test::cases(200);
  for (uint64_t c = 0; c < count; ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    std::vector<CacheObject> sizes(random.between(2, 30));
    double all = 0, largest = 0;
    for (CacheObject& object : sizes) {
      object = {static_cast<double>(random.between(1, 20)), 0, true, false};
      all += object.bytes;
      largest = std::max(largest, object.bytes);
    }
    std::vector<uint32_t> order(sizes.size());
    std::iota(order.begin(), order.end(), 0u);
    const double capacity = largest + (all - largest) * 0.99 * random.uniform();
    double next = 0;
    const auto by_next = replay(cyclic(order, 40), sizes, capacity, Victim::kFurthestNextUse);
    const auto by_last = replay(cyclic(order, 40), sizes, capacity, Victim::kLeastRecentlyUsed);
    for (size_t s = 10; s < 30; ++s) {
      next += by_next[s].total() / 20;
      EXPECT_EQ(by_last[s].total(), all);
    }
    EXPECT_GE(next, all - capacity - 1e-9);
  }
}

// Streaming: the same memory spent on pinning a subset hits cache / size; as an LRU cache, nothing.
TEST(CyclicScan, PinnedSubsetHitsItsShareAndLruNothing) {
  const uint32_t objects = 32;
  const std::vector<CacheObject> sizes(objects, CacheObject{1, 0, true, false});
  std::vector<uint32_t> order(objects);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t cache = 2; cache < objects; ++cache) {
    SCOPED_TRACE(cache);
    // cache - 1 objects are never given away: every other one goes through the last slot.
    std::vector<Access> pinned;
    for (uint32_t pass = 0; pass < 3; ++pass) {
      for (uint32_t object : order) {
        Access access{.reads = {object}, .writes = {}, .dead = {}};
        if (object >= cache - 1) access.dead.push_back(object);
        pinned.push_back(access);
      }
      pinned.emplace_back().end_of_step = true;
    }
    const double moved = replay(pinned, sizes, cache, Victim::kLeastRecentlyUsed).back().total();
    EXPECT_EQ(1 - moved / objects, (cache - 1.0) / objects);
    const auto lru = replay(cyclic(order, 3), sizes, cache, Victim::kLeastRecentlyUsed);
    EXPECT_EQ(lru.back().total(), objects);
  }
}

}  // namespace
}  // namespace headrace::scheduler
