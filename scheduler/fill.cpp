#include "scheduler/fill.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/error.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {

namespace {

struct Candidates {  // of a hole: experts, or chunks of the embedding
  const Workload& workload;
  const SegmentSpec& segment;
  bool rows() const { return segment.kind == SegmentKind::kEmbed; }
  uint32_t count() const {
    return static_cast<uint32_t>(rows() ? workload.objects[segment.candidates[0]].chunks.size()
                                        : segment.candidates.size());
  }
  ObjectId object(uint32_t candidate) const { return segment.candidates[rows() ? 0 : candidate]; }
  uint64_t key(uint32_t candidate) const {
    return uint64_t{object(candidate)} << 32 | (rows() ? candidate : kNone);
  }
  Bytes bytes(uint32_t candidate) const {  // that reading it moves
    const ObjectId id = object(candidate);
    return rows() ? workload.read_bytes(id, candidate) : workload.read_bytes(id);
  }
  uint64_t chunks(uint32_t candidate) const {
    return rows() ? 1 : workload.objects[object(candidate)].chunks.size();
  }
};

// Residents are sorted by tier, object and chunk, the computing tier first; one that stays there
// does so whole. kNone: it does not.
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

Tier computing_tier(const Plan& plan) {
  return plan.arena_bytes[0] > 0 ? Tier::kDevice : Tier::kHost;
}

uint32_t find_slot(const PoolState& state, uint64_t key) {
  for (uint32_t s = 0; s < state.slots.size(); ++s) {
    if (state.slots[s].key == key) return s;
  }
  return kNone;
}

// Least recently used, lowest slot first, among those last used no later than `wave`, the tick at
// which the wave began; an empty one has never been used.
uint32_t find_victim(const PoolState& state, uint64_t wave) {
  uint32_t victim = kNone;
  for (uint32_t s = 0; s < state.slots.size(); ++s) {
    if (state.slots[s].last_use > wave) continue;
    if (victim == kNone || state.slots[s].last_use < state.slots[victim].last_use) victim = s;
  }
  return victim;
}

}  // namespace

PoolState initial_state(const Pool& pool) {
  PoolState state;
  state.slots.resize(pool.slots);
  return state;
}

void fill(const Plan& plan, const Workload& workload, const Hole& hole,
          std::span<const uint32_t> choices, PoolState& state, Filled& out) {
  const Candidates all{workload, workload.segments[hole.segment]};
  const Tier tier = computing_tier(plan);
  out.picks.clear();
  out.wave_end.clear();
  out.bytes = out.operations = 0;
  uint64_t wave = state.tick;
  // What is there already, resident or in the pool, is the first wave's.
  for (uint32_t candidate : choices) {
    HEADRACE_ASSERT(candidate < all.count(), all.segment.name);
    const uint32_t resident = find_resident(plan, all, candidate, tier);
    if (resident != kNone) {
      out.picks.push_back({candidate, {Space::kResident, 0, resident}, false});
      continue;
    }
    HEADRACE_ASSERT(hole.pool != kNone, all.segment.name);
    const uint32_t slot = find_slot(state, all.key(candidate));
    if (slot == kNone) continue;
    state.slots[slot].last_use = ++state.tick;
    out.picks.push_back({candidate, {Space::kPool, hole.pool, slot}, false});
  }
  const size_t hits = out.picks.size();
  for (size_t c = 0, hit = 0; c < choices.size(); ++c) {
    if (hit < hits && out.picks[hit].candidate == choices[c]) {
      ++hit;
      continue;
    }
    uint32_t slot = find_victim(state, wave);
    if (slot == kNone) {  // the wave uses every slot: the next one may take them
      HEADRACE_ASSERT(!state.slots.empty(), "a pool without slots");
      out.wave_end.push_back(static_cast<uint32_t>(out.picks.size()));
      wave = state.tick;
      slot = find_victim(state, wave);
    }
    state.slots[slot] = {all.key(choices[c]), ++state.tick};
    out.picks.push_back({choices[c], {Space::kPool, hole.pool, slot}, true});
    out.bytes += all.bytes(choices[c]);
    out.operations += all.chunks(choices[c]);
  }
  if (!out.picks.empty()) out.wave_end.push_back(static_cast<uint32_t>(out.picks.size()));
}

namespace {

struct Demand {             // of one hole on its pool
  uint64_t candidates = 0;  // that do not stay
  double probability = 0;   // that a pass picks a given one
  uint64_t least = 0;       // distinct picks that a pass cannot avoid
  bool operator==(const Demand& other) const {
    return candidates == other.candidates && probability == other.probability;
  }
};

// Chunks of each object that stay in the computing tier.
std::vector<uint32_t> staying_chunks(const Plan& plan, const Workload& workload) {
  std::vector<uint32_t> chunks(workload.objects.size(), 0);
  const Tier tier = computing_tier(plan);
  for (const Resident& r : plan.residents) chunks[r.object] += r.tier == tier;
  return chunks;
}

Demand demand_of(const Candidates& all, const std::vector<uint32_t>& staying, const Hole& hole,
                 uint32_t rows) {
  const uint32_t count = all.count();
  uint64_t stay = 0;
  if (all.rows()) {
    stay = staying[all.object(0)];
  } else {
    for (uint32_t c = 0; c < count; ++c) stay += staying[all.object(c)] == all.chunks(c);
  }
  Demand out{.candidates = count - stay};
  const double share =
      std::min(1.0, static_cast<double>(hole.choices_per_row) / std::max(1u, count));
  out.probability = share >= 1.0 ? (rows > 0 ? 1.0 : 0.0) : -std::expm1(rows * std::log1p(-share));
  if (rows > 0 && hole.choices_per_row > stay) out.least = hole.choices_per_row - stay;
  out.least = std::min(out.least, out.candidates);
  return out;
}

struct DemandGroup {  // holes with equal demands, as the layers of a model are
  Demand demand;
  double holes = 0;
};

// The share of the picks of `mine` that must be fetched, in a pool that has been used for long.
// Picks are uniform and independent, so a pick is a hit with the share of the hole's candidates
// that the pool holds when the pass comes to it. Back from there the latest distinct keys are, pass
// by pass, those of the other holes and then the hole's own, as far as the slots reach; of n
// candidates that a pass picks with probability p, n p (1 - p)^(j-1) were picked last in the j-th
// pass back.
double expected_misses(const std::vector<DemandGroup>& groups, const Demand& mine, double slots) {
  const double candidates = static_cast<double>(mine.candidates);
  if (candidates == 0) return 0.0;
  const auto picked_last = [](const Demand& d, int pass) {
    return static_cast<double>(d.candidates) * d.probability *
           std::pow(1.0 - d.probability, pass - 1);
  };
  double left = slots, held = 0;
  constexpr int kPassesMax = 4096;
  for (int pass = 1; pass < kPassesMax && left > 0; ++pass) {
    double sum = 0;
    for (const DemandGroup& g : groups) sum += g.holes * picked_last(g.demand, pass);
    const double own = picked_last(mine, pass);
    if (sum < 1e-9) break;
    left -= sum - own;
    held += std::clamp(left, 0.0, own);
    left -= own;
  }
  // Slots beyond all that was ever picked hold every candidate.
  return 1.0 - std::min(1.0, held / candidates);
}

}  // namespace

HoleBytes hole_bytes(const Plan& plan, const Workload& workload, const Hole& hole, uint32_t rows) {
  if (hole.pool == kNone) return {};
  const std::vector<uint32_t> staying = staying_chunks(plan, workload);
  const Candidates all{workload, workload.segments[hole.segment]};
  const Demand mine = demand_of(all, staying, hole, rows);
  std::vector<DemandGroup> groups;
  uint64_t others = 0;  // distinct picks of a pass that the pool's other holes cannot avoid
  for (const Hole& other : plan.holes) {
    if (other.pool != hole.pool) continue;
    const Demand demand =
        demand_of({workload, workload.segments[other.segment]}, staying, other, rows);
    if (other.segment != hole.segment) others += demand.least;
    const auto same = std::find_if(groups.begin(), groups.end(),
                                   [&](const DemandGroup& g) { return g.demand == demand; });
    if (same == groups.end())
      groups.push_back({demand, 1.0});
    else
      same->holes += 1.0;
  }
  std::vector<Bytes> bytes;  // of the candidates that do not stay, ascending
  Bytes total = 0;
  for (uint32_t c = 0; c < all.count(); ++c) {
    if (find_resident(plan, all, c, computing_tier(plan)) != kNone) continue;
    bytes.push_back(all.bytes(c));
    total += bytes.back();
  }
  std::sort(bytes.begin(), bytes.end());
  HoleBytes out;
  // The pool holds the latest distinct picks: at most what the others leave is a hit.
  const uint64_t slots = plan.pools[hole.pool].slots;
  const uint64_t hits = slots > others ? slots - others : 0;
  for (uint64_t i = 0; i + hits < mine.least; ++i) out.least += bytes[i];
  const uint64_t most = std::min<uint64_t>(uint64_t{rows} * hole.choices_per_row, bytes.size());
  for (uint64_t i = 0; i < most; ++i) out.most += bytes[bytes.size() - 1 - i];
  const double expected = static_cast<double>(total) * mine.probability *
                          expected_misses(groups, mine, static_cast<double>(slots));
  out.expected = std::clamp(static_cast<Bytes>(expected), out.least, std::max(out.least, out.most));
  return out;
}

HoleBytes pass_bytes(const Plan& plan, const Workload& workload, uint32_t rows) {
  Bytes walked = 0;
  for (const ByteRow& row : bytes_of(plan.steady)) walked += row.bytes;
  const PassRows decode{.rows = rows, .context = workload.context};
  HoleBytes out{walked + kv_least(plan, rows).total(),
                walked + kv_expected(plan, workload, decode).total(),
                walked + kv_most(plan, rows).total()};
  for (const Hole& hole : plan.holes) {
    const HoleBytes bytes = hole_bytes(plan, workload, hole, rows);
    out.least += bytes.least;
    out.expected += bytes.expected;
    out.most += bytes.most;
  }
  return out;
}

}  // namespace headrace::scheduler
