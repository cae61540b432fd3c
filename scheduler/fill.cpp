#include "scheduler/fill.h"

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "scheduler/fill_candidates.h"

namespace headrace::scheduler {

uint32_t find_resident(const Plan& plan, const Candidates& all, uint32_t candidate, Tier tier) {
  const ObjectId object = all.object(candidate);
  const uint32_t chunk = all.rows() ? candidate : 0;
  const auto before = [](const Resident& r, const auto& key) {
    return std::tuple(r.tier, r.object, r.chunk) < key;
  };
  const auto at = std::lower_bound(plan.residents.begin(), plan.residents.end(),
                                   std::tuple(tier, object, chunk), before);
  const auto is = [&](auto it, uint32_t c) {
    return it < plan.residents.end() && it->tier == tier && it->object == object && it->chunk == c;
  };
  if (!is(at, chunk)) return kNone;
  const uint32_t chunks = static_cast<uint32_t>(all.chunks(candidate));
  if (all.rows()) return static_cast<uint32_t>(at - plan.residents.begin());
  if (static_cast<uint64_t>(plan.residents.end() - at) < chunks ||
      !is(at + (chunks - 1), chunks - 1)) {
    return kNone;
  }
  return static_cast<uint32_t>(at - plan.residents.begin());
}

uint32_t fetches_ahead(const Pool& pool, const Hole& hole) {
  // A disk is at its rate with some tens of MiB asked for; one row's choices are always asked for
  // together. What more is asked for at once only drives out what may be wanted again.
  constexpr Bytes kAhead = 64 * kMiB;
  constexpr Bytes kMost = 16;
  const Bytes wanted = std::min(kMost, kAhead / std::max<Bytes>(1, pool.slot_bytes));
  return static_cast<uint32_t>(
      std::clamp<Bytes>(wanted, std::max(1u, hole.choices_per_row), kMost));
}

PoolState initial_state(const Plan& plan, const Workload& workload, uint32_t pool) {
  PoolState state;
  state.slots.resize(plan.pools.at(pool).slots);
  std::vector<uint32_t> counts;
  for (const Hole& hole : plan.holes) {
    if (hole.pool != pool) continue;
    const Candidates all{workload, workload.segments.at(hole.segment)};
    state.turns.push_back(hole.segment);
    state.slot_of.emplace_back(all.count(), kNone);
    counts.push_back(all.count());
  }
  if (plan.pools[pool].evict == Evict::kForecast) state.forecast = Forecast(counts);
  return state;
}

namespace {

class Filling {
 public:
  Filling(const Plan& plan, const Candidates& all, const Hole& hole, PoolState& state, Filled& out)
      : plan_(plan), all_(all), hole_(hole), state_(state), out_(out) {
    if (hole.pool == kNone) return;
    const Pool& pool = plan.pools[hole.pool];
    const auto at = std::find(state.turns.begin(), state.turns.end(), hole.segment);
    HEADRACE_ASSERT(at != state.turns.end() && !state.slots.empty(), all.segment.name);
    turn_ = static_cast<uint32_t>(at - state.turns.begin());
    recency_ = pool.evict == Evict::kRecency;
    ahead_ = std::min(fetches_ahead(pool, hole), pool.slots);
    ++state.calls;
  }

  void observe(std::span<const Choice> choices) {
    if (hole_.pool == kNone || recency_ || choices.empty()) return;  // of no rows
    uint64_t picked = 0;
    for (const Choice& choice : choices) picked += choice.rows;
    const uint64_t per_row = std::max(1u, hole_.choices_per_row);
    state_.forecast.observe(turn_, choices,
                            static_cast<uint32_t>(std::max<uint64_t>(1, picked / per_row)));
  }

  // True when it is there: resident or in the pool.
  bool hit(uint32_t candidate) {
    HEADRACE_ASSERT(candidate < all_.count(), all_.segment.name);
    const uint32_t resident = find_resident(plan_, all_, candidate, computing_tier(plan_));
    if (resident != kNone) {
      out_.picks.push_back({candidate, {Space::kResident, 0, resident}, false, kNone});
      return true;
    }
    HEADRACE_ASSERT(hole_.pool != kNone, all_.segment.name);
    const uint32_t slot = state_.slot_of[turn_][candidate];
    if (slot == kNone) return false;
    use(slot);
    out_.picks.push_back({candidate, {Space::kPool, hole_.pool, slot}, false, kNone});
    return true;
  }

  void miss(uint32_t candidate) {
    const uint32_t slot = victim();
    PoolState::Entry& entry = state_.slots[slot];
    const uint32_t after = entry.call == state_.calls ? entry.pick : kNone;
    if (entry.turn != kNone) state_.slot_of[entry.turn][entry.candidate] = kNone;
    entry.turn = turn_;
    entry.candidate = candidate;
    state_.slot_of[turn_][candidate] = slot;
    use(slot);
    out_.picks.push_back({candidate, {Space::kPool, hole_.pool, slot}, true, after});
    out_.bytes += all_.bytes(candidate);
    out_.operations += all_.chunks(candidate);
  }

 private:
  void use(uint32_t slot) {
    state_.slots[slot].pick = static_cast<uint32_t>(out_.picks.size());
    state_.slots[slot].call = state_.calls;
    state_.slots[slot].last_use = ++state_.tick;
  }

  // An empty slot; otherwise the one whose candidate is wanted last as far as one can say, or was
  // least recently wanted; the lowest of equals. Not one of the latest picks'.
  uint32_t victim() const {
    const size_t now = out_.picks.size();
    uint32_t best = kNone;
    double best_turns = 0;
    for (uint32_t s = 0; s < state_.slots.size(); ++s) {
      const PoolState::Entry& entry = state_.slots[s];
      if (entry.turn == kNone) return s;
      if (entry.call == state_.calls && now - entry.pick < ahead_) continue;
      const double turns = recency_
                               ? -static_cast<double>(entry.last_use)
                               : state_.forecast.turns_until(turn_, entry.turn, entry.candidate);
      if (best == kNone || turns > best_turns) best = s, best_turns = turns;
    }
    HEADRACE_ASSERT(best != kNone, "a pool smaller than what is under way");
    return best;
  }

  const Plan& plan_;
  const Candidates& all_;
  const Hole& hole_;
  PoolState& state_;
  Filled& out_;
  uint32_t turn_ = kNone, ahead_ = 1;
  bool recency_ = false;
};

}  // namespace

void fill(const Plan& plan, const Workload& workload, const Hole& hole,
          std::span<const Choice> choices, PoolState& state, Filled& out) {
  const Candidates all{workload, workload.segments[hole.segment]};
  out.picks.clear();
  out.bytes = out.operations = 0;
  Filling filling(plan, all, hole, state, out);
  filling.observe(choices);
  for (const Choice& choice : choices) filling.hit(choice.candidate);
  const size_t hits = out.picks.size();
  out.hits = static_cast<uint32_t>(hits);
  for (size_t c = 0, hit = 0; c < choices.size(); ++c) {
    if (hit < hits && out.picks[hit].candidate == choices[c].candidate) {
      ++hit;
    } else {
      filling.miss(choices[c].candidate);
    }
  }
}

}  // namespace headrace::scheduler
