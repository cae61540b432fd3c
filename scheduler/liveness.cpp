#include "scheduler/liveness.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "core/error.h"

namespace headrace::scheduler {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};

// When each object is used: the times of object o are times[begin[o]] .. times[begin[o + 1] - 1],
// ascending and distinct.
struct UseTimes {
  std::vector<uint32_t> begin;
  std::vector<uint64_t> times;
};

UseTimes use_times(const std::vector<Access>& string, size_t objects) {
  // Twice over the string: count, then place. An object that an operation names twice counts once.
  UseTimes uses{std::vector<uint32_t>(objects + 1, 0), {}};
  std::vector<uint64_t> seen(objects, kNever);
  const auto each = [&](const auto& place) {
    std::fill(seen.begin(), seen.end(), kNever);
    for (uint64_t t = 0; t < string.size(); ++t) {
      const auto use = [&](uint32_t object) {
        HEADRACE_ASSERT(object < objects, fmt::format("object {} of {}", object, objects));
        if (seen[object] != t) place(object, t);
        seen[object] = t;
      };
      for (uint32_t object : string[t].reads) use(object);
      for (uint32_t object : string[t].writes) use(object);
      if (string[t].host_gradient != Access::kNoObject) use(string[t].host_gradient);
    }
  };
  each([&](uint32_t object, uint64_t) { ++uses.begin[object + 1]; });
  std::partial_sum(uses.begin.begin(), uses.begin.end(), uses.begin.begin());
  uses.times.resize(uses.begin.back());
  std::vector<uint32_t> next(uses.begin.begin(), uses.begin.end() - 1);
  each([&](uint32_t object, uint64_t t) { uses.times[next[object]++] = t; });
  return uses;
}

// The memory and what is in it. Residents that the operation at hand needs are out of `ranked_`,
// so its first entry is always the victim.
class Cache {
 public:
  Cache(const std::vector<Access>& string, const std::vector<CacheObject>& objects, double capacity,
        Victim victim, bool dirty_bits)
      : objects_(objects),
        capacity_(capacity),
        victim_(victim),
        dirty_bits_(dirty_bits),
        uses_(use_times(string, objects.size())),
        next_(uses_.begin.begin(), uses_.begin.end() - 1),
        state_(objects.size()) {}

  void run(const Access& access, uint64_t t) {
    if (access.host_gradient != Access::kNoObject) return host_update(access);
    need_.clear();
    for (uint32_t object : access.reads) want(object, t, true);
    for (uint32_t object : access.writes) want(object, t, false);
    for (uint32_t object : need_) bring(object, t);
    for (uint32_t object : access.writes) state_[object].dirty = true;
    for (uint32_t object : access.dead) drop(object);
    for (uint32_t object : need_) {
      if (!state_[object].resident) continue;
      state_[object].last = t;
      ranked_.insert(rank(object, t));
    }
  }

  void end_step() {
    steps_.push_back(moved_);
    moved_ = {};
  }

  // What is still dirty at the very end is written out on the last step's account, in the order in
  // which it came in.
  std::vector<StepBytes> take(bool flush) {
    if (flush && !steps_.empty()) {
      std::vector<uint32_t> left;
      for (uint32_t object = 0; object < state_.size(); ++object) {
        const State& state = state_[object];
        const bool leaves = objects_[object].kept && (state.dirty || !dirty_bits_);
        if (state.resident && leaves) left.push_back(object);
      }
      std::sort(left.begin(), left.end(),
                [&](uint32_t a, uint32_t b) { return state_[a].inserted < state_[b].inserted; });
      for (uint32_t object : left) count(steps_.back().out, object);
    }
    return std::move(steps_);
  }

 private:
  struct State {
    bool resident = false, dirty = false, reads = false;
    uint64_t inserted = 0;     // counts up: the longest resident has the least
    uint64_t last = 0;         // time of the last use
    uint64_t needed = kNever;  // time of the operation that needs it
  };
  // Victims in ascending order: of LRU (last use, age); of furthest next use (its complement,
  // dirty, size negated, age). Ages differ, so the order is total.
  using Rank = std::tuple<uint64_t, bool, double, uint64_t, uint32_t>;

  Rank rank(uint32_t object, uint64_t t) {
    const State& state = state_[object];
    if (victim_ == Victim::kLeastRecentlyUsed) {
      return {state.last, false, 0, state.inserted, object};
    }
    return {~next_use(object, t), state.dirty, -objects_[object].bytes, state.inserted, object};
  }

  uint64_t next_use(uint32_t object, uint64_t t) {
    uint32_t& at = next_[object];
    while (at < uses_.begin[object + 1] && uses_.times[at] <= t) ++at;
    return at < uses_.begin[object + 1] ? uses_.times[at] : kNever;
  }

  void want(uint32_t object, uint64_t t, bool is_read) {
    State& state = state_[object];
    if (state.needed != t) {
      // The rank that stands in the set is of the last use: nothing has touched it since.
      if (state.resident) ranked_.erase(rank(object, state.last));
      state.needed = t;
      state.reads = false;
      need_.push_back(object);
    }
    state.reads = state.reads || is_read;
  }

  void bring(uint32_t object, uint64_t t) {
    State& state = state_[object];
    if (state.resident) return;
    const CacheObject& what = objects_[object];
    while (used_ + what.bytes > capacity_) {
      if (ranked_.empty()) {
        throw Error(ErrorCode::kInfeasible,
                    fmt::format("access string: operation {} needs more than the capacity of {}; "
                                "give more memory",
                                t, capacity_));
      }
      evict(std::get<4>(*ranked_.begin()), t);
    }
    if (state.reads && !what.free_input) count(moved_.in, object);
    state.resident = true;
    state.dirty = false;
    state.inserted = ++insertions_;
    used_ += what.bytes;
  }

  void evict(uint32_t object, uint64_t t) {
    const bool wanted = objects_[object].kept || next_use(object, t) < kNever;
    if (wanted && (state_[object].dirty || !dirty_bits_)) count(moved_.out, object);
    ranked_.erase(ranked_.begin());
    leave(object);
  }

  void drop(uint32_t object) {
    State& state = state_[object];
    if (!state.resident) return;
    // Objects that the operation needs are not ranked while it runs; others are.
    ranked_.erase(rank(object, state.last));
    leave(object);
  }

  void leave(uint32_t object) {
    state_[object].resident = false;
    used_ -= objects_[object].bytes;
  }

  // The gradient leaves for the host, which updates; the weight on the device is stale.
  void host_update(const Access& access) {
    const State& gradient = state_[access.host_gradient];
    if (gradient.resident && gradient.dirty) count(moved_.out, access.host_gradient);
    drop(access.host_gradient);
    if (access.host_weight != Access::kNoObject) drop(access.host_weight);
  }

  void count(double (&side)[kCacheKinds], uint32_t object) {
    side[objects_[object].kind] += objects_[object].bytes;
  }

  const std::vector<CacheObject>& objects_;
  const double capacity_;
  const Victim victim_;
  const bool dirty_bits_;
  UseTimes uses_;
  std::vector<uint32_t> next_;  // by object: into uses_.times
  std::vector<State> state_;
  std::set<Rank> ranked_;
  std::vector<uint32_t> need_;  // of the operation at hand, in order of first mention
  double used_ = 0;
  uint64_t insertions_ = 0;
  StepBytes moved_;
  std::vector<StepBytes> steps_;
};

}  // namespace

double StepBytes::total() const {
  return std::accumulate(std::begin(in), std::end(in), 0.0) +
         std::accumulate(std::begin(out), std::end(out), 0.0);
}

std::vector<StepBytes> replay(const std::vector<Access>& string,
                              const std::vector<CacheObject>& objects, double capacity,
                              Victim victim, bool dirty_bits, bool flush) {
  for (const CacheObject& object : objects) {
    HEADRACE_ASSERT(object.kind < kCacheKinds && object.bytes >= 0);
  }
  Cache cache(string, objects, capacity, victim, dirty_bits);
  for (uint64_t t = 0; t < string.size(); ++t) {
    if (string[t].end_of_step) {
      cache.end_step();
    } else {
      cache.run(string[t], t);
    }
  }
  return cache.take(flush);
}

}  // namespace headrace::scheduler
