#include <algorithm>
#include <cmath>

#include "scheduler/fill.h"
#include "scheduler/fill_candidates.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {

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

// That a pass picks a given one of `count` candidates.
double pick_probability(const Hole& hole, uint32_t count, uint32_t rows) {
  const double share =
      std::min(1.0, static_cast<double>(hole.choices_per_row) / std::max(1u, count));
  return picked_by(rows, share);
}

Demand demand_of(const Candidates& all, const std::vector<uint32_t>& staying, const Hole& hole,
                 const PassRows& pass) {
  const uint32_t count = all.count(), rows = pass.at(all.segment);
  uint64_t stay = 0;
  if (all.rows()) {
    stay = staying[all.object(0)];
  } else {
    for (uint32_t c = 0; c < count; ++c) stay += staying[all.object(c)] == all.chunks(c);
  }
  Demand out{.candidates = count - stay};
  out.probability = pick_probability(hole, count, rows);
  if (rows > 0 && hole.choices_per_row > stay) out.least = hole.choices_per_row - stay;
  out.least = std::min(out.least, out.candidates);
  return out;
}

struct DemandGroup {  // holes with equal demands, as the layers of a model are
  Demand demand;
  double holes = 0;
};

// The share of the picks of `mine` that must be fetched, in a pool of the latest picks that has
// been used for long. Picks are uniform and independent, so a pick is a hit with the share of the
// hole's candidates that the pool holds when the pass comes to it. Back from there the latest
// distinct keys are, pass by pass, those of the other holes and then the hole's own, as far as the
// slots reach; of n candidates that a pass picks with probability p, n p (1 - p)^(j-1) were picked
// last in the j-th pass back.
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

// The same in a pool that keeps what is expected to be wanted soonest. Of uniform, independent
// picks none is foreseen but by its layer's turn: what a layer fetches takes the places of those of
// its own that it does not pick, and every layer holds an even share of its candidates. One that
// picks more than it holds is lent places by the others: from none, where it picks as many, up to
// what it fetches ahead, where it picks half of the others too. Within a tenth for picks at random.
double expected_misses_forecast(double all, double slots, const Demand& mine, double ahead) {
  if (slots >= all) return 0.0;
  const double held = slots / all;
  const double lent = std::clamp(2.0 * (mine.probability - held) / (1.0 - held), 0.0, 1.0);
  const double picks = static_cast<double>(mine.candidates) * mine.probability;
  const double between = lent * std::min({picks, ahead, slots});
  return 1.0 - (slots - between) / (all - between);
}

struct PoolDemand {
  std::vector<DemandGroup> groups;
  double candidates = 0;
  uint32_t holes = 0;
};

PoolDemand pool_demand(const Plan& plan, const Workload& workload,
                       const std::vector<uint32_t>& staying, uint32_t pool, const PassRows& pass) {
  PoolDemand out;
  for (const Hole& hole : plan.holes) {
    if (hole.pool != pool) continue;
    const Demand demand =
        demand_of({workload, workload.segments[hole.segment]}, staying, hole, pass);
    ++out.holes;
    out.candidates += static_cast<double>(demand.candidates);
    const auto same = std::find_if(out.groups.begin(), out.groups.end(),
                                   [&](const DemandGroup& g) { return g.demand == demand; });
    if (same == out.groups.end()) {
      out.groups.push_back({demand, 1.0});
    } else {
      same->holes += 1.0;
    }
  }
  return out;
}

// The share of a hole's picks that must be fetched, of those that do not stay, all as likely.
double even_misses(const Plan& plan, const Hole& hole, const Demand& mine, const PoolDemand& all) {
  const Pool& pool = plan.pools[hole.pool];
  const double slots = pool.slots;
  if (pool.evict == Evict::kRecency) return expected_misses(all.groups, mine, slots);
  const double ahead = all.holes > 1 ? fetches_ahead(pool, hole) : 0.0;
  return expected_misses_forecast(all.candidates, slots, mine, ahead);
}

PickShares expected_of(const Plan& plan, const Candidates& all, const Hole& hole,
                       const Demand& mine, const PoolDemand& pool, const PassRows& pass) {
  const PickShares even{mine.probability, even_misses(plan, hole, mine, pool)};
  if (hole.source != Source::kRouter) return even;
  return with_locality(all.workload, even, pick_probability(hole, all.count(), 1),
                       pass.at(all.segment));
}

// Of the candidates that do not stay, ascending.
std::vector<Bytes> missing_sizes(const Plan& plan, const Candidates& all) {
  std::vector<Bytes> bytes;
  for (uint32_t c = 0; c < all.count(); ++c) {
    if (find_resident(plan, all, c, computing_tier(plan)) == kNone) bytes.push_back(all.bytes(c));
  }
  std::sort(bytes.begin(), bytes.end());
  return bytes;
}

}  // namespace

double picked_by(double rows, double share) {
  if (share >= 1.0) return rows > 0 ? 1.0 : 0.0;
  return -std::expm1(rows * std::log1p(-share));
}

// On recorded routes a pool misses about the same power of the even share whatever its size
// (docs/design/007-experts.md), so what was seen of one pool is carried to another by that power.
// Of more rows it is nearer the first, for what several rows want at once is less any one's
// favourites: what it exceeds that by shrinks as the share of candidates that no row picks. To
// fewer rows it is carried as it is: what little many rows exceed it by says nothing of one.
PickShares with_locality(const Workload& workload, const PickShares& even, double per_row,
                         uint32_t rows) {
  const std::vector<Locality>& known = workload.localities;
  if (known.empty() || rows == 0) return even;
  const auto distance = [&](const Locality& l) {
    const double doublings = std::log2(static_cast<double>(rows) / std::max(1u, l.rows));
    return l.doubt + std::abs(doublings) + 3 * std::abs(l.even - even.missed);
  };
  const Locality& nearest = *std::min_element(
      known.begin(), known.end(),
      [&](const Locality& a, const Locality& b) { return distance(a) < distance(b); });
  PickShares out = even;
  if (nearest.picked > 0) {
    out.picked = std::min(1.0, even.picked * nearest.picked / picked_by(nearest.rows, per_row));
  }
  double power = std::log(std::clamp(nearest.missed, 1e-6, 1.0)) /
                 std::log(std::clamp(nearest.even, 1e-6, 0.99));
  const double more = static_cast<double>(rows - std::min(rows, nearest.rows));
  if (power > 1) power = 1 + (power - 1) * std::pow(1 - std::min(per_row, 0.9), more);
  out.missed = std::pow(even.missed, std::min(power, 12.0));
  return out;
}

HoleBytes hole_bytes(const Plan& plan, const Workload& workload, const Hole& hole,
                     const PassRows& pass) {
  if (hole.pool == kNone) return {};
  const std::vector<uint32_t> staying = staying_chunks(plan, workload);
  const Candidates all{workload, workload.segments[hole.segment]};
  const Demand mine = demand_of(all, staying, hole, pass);
  const PoolDemand pool = pool_demand(plan, workload, staying, hole.pool, pass);
  const std::vector<Bytes> bytes = missing_sizes(plan, all);
  HoleBytes out;
  Bytes total = 0;
  for (Bytes b : bytes) total += b;
  // At most what the pool holds is a hit.
  const uint64_t slots = plan.pools[hole.pool].slots;
  for (uint64_t i = 0; i + slots < mine.least; ++i) out.least += bytes[i];
  const uint64_t most =
      std::min<uint64_t>(uint64_t{pass.at(all.segment)} * hole.choices_per_row, bytes.size());
  for (uint64_t i = 0; i < most; ++i) out.most += bytes[bytes.size() - 1 - i];
  const PickShares share = expected_of(plan, all, hole, mine, pool, pass);
  out.picks = static_cast<double>(mine.candidates) * share.picked;
  const double expected = static_cast<double>(total) * share.picked * share.missed;
  out.expected = std::clamp(static_cast<Bytes>(expected), out.least, std::max(out.least, out.most));
  return out;
}

HoleBytes holes_bytes(const Plan& plan, const Workload& workload, const PassRows& pass) {
  HoleBytes out;
  const std::vector<uint32_t> staying = staying_chunks(plan, workload);
  std::vector<std::vector<Bytes>> picked(plan.pools.size());  // the cheapest that a pass can pick
  for (const Hole& hole : plan.holes) {
    if (hole.pool == kNone) continue;
    const HoleBytes bytes = hole_bytes(plan, workload, hole, pass);
    out.expected += bytes.expected;
    out.most += bytes.most;
    const Candidates all{workload, workload.segments[hole.segment]};
    const std::vector<Bytes> sizes = missing_sizes(plan, all);
    const uint64_t least = demand_of(all, staying, hole, pass).least;
    picked[hole.pool].insert(picked[hole.pool].end(), sizes.begin(),
                             sizes.begin() + static_cast<ptrdiff_t>(least));
  }
  for (size_t p = 0; p < picked.size(); ++p) {
    std::sort(picked[p].begin(), picked[p].end());
    for (size_t i = 0; i + plan.pools[p].slots < picked[p].size(); ++i) out.least += picked[p][i];
  }
  out.expected = std::clamp(out.expected, out.least, std::max(out.least, out.most));
  return out;
}

std::vector<PassRow> pass_bytes_by_edge(const Plan& plan, const Workload& workload, uint32_t rows) {
  std::vector<PassRow> out;
  const auto add = [&](const ByteRow& more, Bytes least, Bytes most) {
    auto at = std::find_if(out.begin(), out.end(), [&](const PassRow& r) {
      return r.row.edge == more.edge && r.row.kind == more.kind;
    });
    if (at == out.end()) at = out.insert(out.end(), {{.edge = more.edge, .kind = more.kind}});
    at->row.bytes += more.bytes;
    at->row.operations += more.operations;
    at->least += least;
    at->most += most;
  };
  for (const ByteRow& row : bytes_of(plan.steady)) add(row, row.bytes, row.bytes);
  const HoleBytes holes = holes_bytes(plan, workload, decoding(rows));
  if (holes.most > 0) {
    add({.edge = {Tier::kDisk, computing_tier(plan)}, .bytes = holes.expected}, holes.least,
        holes.most);
  }
  const uint64_t layers = plan.kv.streamed.size();
  if (layers == 0) return out;
  const PassRows decode{.rows = rows, .context = workload.context};
  const KvBytes least = kv_least(plan, rows), most = kv_most(plan, workload, rows);
  const KvBytes kv = kv_expected(plan, workload, decode);
  add({{Tier::kDisk, Tier::kHost}, Kind::kKv, kv.read, layers}, least.read, most.read);
  add({{Tier::kHost, Tier::kDisk}, Kind::kKv, kv.written, layers}, least.written, most.written);
  return out;
}

HoleBytes pass_bytes(const Plan& plan, const Workload& workload, uint32_t rows) {
  HoleBytes out;
  for (const PassRow& part : pass_bytes_by_edge(plan, workload, rows)) {
    out.least += part.least;
    out.expected += part.row.bytes;
    out.most += part.most;
  }
  return out;
}

namespace {

struct Routed {  // picks of experts in a pass
  double picks = 0, pooled = 0, missed = 0, even_missed = 0;
};

Routed routed_picks(const Plan& plan, const Workload& workload, uint32_t rows) {
  const PassRows pass = decoding(rows);
  const std::vector<uint32_t> staying = staying_chunks(plan, workload);
  Routed out;
  for (const Hole& hole : plan.holes) {
    if (hole.source != Source::kRouter) continue;
    const Candidates all{workload, workload.segments[hole.segment]};
    const Demand mine = demand_of(all, staying, hole, pass);
    if (hole.pool == kNone) {
      out.picks += static_cast<double>(all.count()) * mine.probability;
      continue;
    }
    const PoolDemand pool = pool_demand(plan, workload, staying, hole.pool, pass);
    const PickShares share = expected_of(plan, all, hole, mine, pool, pass);
    const double pooled = static_cast<double>(mine.candidates) * share.picked;
    out.picks += static_cast<double>(all.count()) * share.picked;
    out.pooled += pooled;
    out.missed += pooled * share.missed;
    out.even_missed += pooled * even_misses(plan, hole, mine, pool);
  }
  return out;
}

}  // namespace

std::optional<double> expected_hit_rate(const Plan& plan, const Workload& workload, uint32_t rows) {
  const Routed routed = routed_picks(plan, workload, rows);
  if (routed.picks == 0 || routed.missed == 0) return std::nullopt;
  return 1.0 - routed.missed / routed.picks;
}

double even_miss_share(const Plan& plan, const Workload& workload, uint32_t rows) {
  const Routed routed = routed_picks(plan, workload, rows);
  return routed.pooled == 0 ? 0 : routed.even_missed / routed.pooled;
}

}  // namespace headrace::scheduler
