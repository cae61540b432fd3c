#include "scheduler/forecast.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace headrace::scheduler {

namespace {

// Rows after which a pick counts half in a share. From 16 to 256 little changes; the recorded
// routes of docs/design/007-experts.md are best served from 32 to 64.
constexpr double kHalfLifeRows = 48;
// Of what came of a kind of candidate: old counts fade over some ten thousand.
constexpr double kFade = 0.9999;
// A kind that was never seen behaves as its share says, with the weight of so many observations.
constexpr double kPriorWeight = 2;
constexpr size_t kAges = 25, kShares = 16;
constexpr uint64_t kAgeNever = 1000;
constexpr double kShareLeast = 1e-4, kChanceLeast = 1e-6;

// 1 to 8 one by one, then two steps to a doubling.
size_t age_step(uint64_t passes) {
  if (passes <= 8) return passes;
  const double steps = 2 * std::log2(static_cast<double>(passes) / 8);
  return std::min<size_t>(kAges - 1, 8 + static_cast<size_t>(steps));
}

// Two steps to a halving.
size_t share_step(double share) {
  const double steps = -2 * std::log2(std::clamp(share, kShareLeast, 1.0));
  return std::min(kShares - 1, static_cast<size_t>(steps));
}

}  // namespace

Forecast::Forecast(const std::vector<uint32_t>& candidates) : tried_(kAges * kShares) {
  for (uint32_t count : candidates) turns_.emplace_back().seen.resize(count);
  for (size_t kind = 0; kind < tried_.size(); ++kind) {
    const double share = std::exp2(-0.5 * static_cast<double>(kind % kShares));
    tried_[kind] = {kPriorWeight * share, kPriorWeight};
  }
  for (Turn& turn : turns_) foresee(turn);
}

void Forecast::seed(uint32_t turn, uint64_t rows, std::span<const uint64_t> picks) {
  Turn& t = turns_.at(turn);
  HEADRACE_ASSERT(picks.size() == t.seen.size() && rows > 0);
  t.weight = 1;
  for (size_t c = 0; c < picks.size(); ++c) {
    t.seen[c].share = std::min(1.0, static_cast<double>(picks[c]) / static_cast<double>(rows));
  }
  foresee(t);
}

// What the next turn, pass `pass`, knows of a candidate.
size_t Forecast::kind_of(const Turn& turn, const Seen& seen, uint64_t pass) {
  const uint64_t age = seen.pass == 0 ? kAgeNever : pass - seen.pass;
  const double share = turn.weight > 0 ? seen.share / turn.weight : 0;
  return age_step(age) * kShares + share_step(share);
}

void Forecast::foresee(Turn& turn) {
  for (Seen& seen : turn.seen) {
    const Tried& kind = tried_[kind_of(turn, seen, turn.passes + 1)];
    const double chance = kind.of > 0 ? kind.picked / kind.of : 0;
    seen.passes = 1 / std::max(chance, kChanceLeast) - 1;
  }
}

void Forecast::observe(uint32_t turn, std::span<const Choice> choices, uint32_t rows) {
  Turn& t = turns_.at(turn);
  const uint64_t pass = ++t.passes;
  const double keep = std::exp2(-static_cast<double>(rows) / kHalfLifeRows);
  const auto learn = [&](Seen& seen, double picked) {
    Tried& kind = tried_[kind_of(t, seen, pass)];
    kind.picked = kind.picked * kFade + (picked > 0 ? 1 : 0);
    kind.of = kind.of * kFade + 1;
    seen.share = seen.share * keep + (1 - keep) * picked;
    if (picked > 0) seen.pass = pass;
  };
  size_t next = 0;
  for (uint32_t c = 0; c < t.seen.size(); ++c) {
    const bool is = next < choices.size() && choices[next].candidate == c;
    learn(t.seen[c], is ? std::min(1.0, static_cast<double>(choices[next++].rows) / rows) : 0.0);
  }
  t.weight = t.weight * keep + (1 - keep);
  foresee(t);
}

double Forecast::turns_until(uint32_t now, uint32_t turn, uint32_t candidate) const {
  const double cycle = static_cast<double>(turns_.size());
  const double ahead = turn > now ? turn - now : cycle - (now - turn);
  return ahead + cycle * turns_[turn].seen[candidate].passes;
}

}  // namespace headrace::scheduler
