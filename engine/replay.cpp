#include "engine/replay.h"

#include <algorithm>
#include <utility>

namespace headrace::engine {

Replay::Replay(const scheduler::Plan& plan, const scheduler::Workload& workload, Usage usage)
    : plan_(plan), workload_(workload), usage_(std::move(usage)) {
  uint32_t layer = 0;
  size_t picks_max = 0;
  for (const scheduler::Hole& hole : plan.holes) {
    const SegmentSpec& segment = workload.segments[hole.segment];
    layer_of_.push_back(segment.kind == SegmentKind::kExperts ? layer++ : kNone);
    size_t chunks = 0;
    if (layer_of_.back() != kNone) experts_all_ += segment.candidates.size();
    for (ObjectId id : segment.candidates) chunks += workload.objects[id].chunks.size();
    picks_max = std::max(picks_max, chunks);
  }
  filled_.picks.reserve(picks_max);
  by_hole_.resize(plan.holes.size());
  for (uint32_t p = 0; p < plan.pools.size(); ++p) {
    pools_.push_back(seeded_state(plan, workload, p, usage_));
    rows_.push_back({.edge = {Tier::kDisk, plan.pools[p].tier}, .kind = Kind::kWeights});
  }
}

void Replay::decide(uint32_t hole_index, std::span<const scheduler::Choice> choices) {
  const scheduler::Hole& hole = plan_.holes[hole_index];
  const bool routed = layer_of_[hole_index] != kNone;
  if (routed) {
    Usage::Layer& layer = usage_.layers[layer_of_[hole_index]];
    uint64_t picked = 0;
    for (const scheduler::Choice& choice : choices) {
      layer.picks[choice.candidate] += choice.rows;
      picked += choice.rows;
    }
    layer.rows += picked / std::max(1u, hole.choices_per_row);
  } else if (hole.pool == kNone) {
    return;
  }
  scheduler::fill(plan_, workload_, hole, choices, hole.pool == kNone ? none_ : pools_[hole.pool],
                  filled_);
  if (routed) {
    experts_.hits += filled_.hits;
    experts_.misses += filled_.picks.size() - filled_.hits;
    pass_.picked += filled_.picks.size();
    for (const scheduler::Pick& pick : filled_.picks) {
      pass_.pooled += pick.slot.space == scheduler::Space::kPool;
      pass_.missed += pick.fetch;
    }
  }
  if (hole.pool == kNone) return;
  by_hole_[hole_index] += filled_.bytes;
  rows_[hole.pool].bytes += filled_.bytes;
  rows_[hole.pool].operations += filled_.operations;
}

void Replay::note_pass(uint32_t rows, bool decodes) {
  const Passes pass = std::exchange(pass_, {});
  if (!std::exchange(begun_, true) || !decodes || pass.pooled == 0) return;
  for (Passes& kind : kinds_) {
    if (kind.count != 0 && kind.rows != rows) continue;
    kind = {rows, kind.count + 1, kind.picked + pass.picked, kind.pooled + pass.pooled,
            kind.missed + pass.missed};
    return;
  }
}

Usage Replay::usage() const {
  Usage out = usage_;
  const bool foresees = std::all_of(
      plan_.pools.begin(), plan_.pools.end(),
      [](const scheduler::Pool& pool) { return pool.evict == scheduler::Evict::kForecast; });
  constexpr uint64_t kFew = 4;  // passes that say nothing
  for (const Passes& kind : kinds_) {
    if (kind.count < kFew || !foresees) continue;
    const auto millionths = [](uint64_t part, uint64_t all) { return part * kMillion / all; };
    const double even = scheduler::even_miss_share(plan_, workload_, kind.rows);
    add_passes(out, {.rows = kind.rows,
                     .count = kind.count,
                     .picked = millionths(kind.picked, experts_all_ * kind.count),
                     .missed = millionths(kind.missed, kind.pooled),
                     .even = static_cast<uint64_t>(even * kMillion)});
  }
  return out;
}

void Replay::end_pass(const scheduler::PassRows& pass, bool decodes) {
  note_pass(pass.rows, decodes);
  if (rows_.empty()) return;
  const auto end = passes_.begin() + passes_count_;
  const auto same =
      std::find_if(passes_.begin(), end, [&](const auto& p) { return p.first == pass; });
  if (same != end) {
    ++same->second;
    return;
  }
  if (passes_count_ == passes_.size()) {
    range_ = range();
    passes_count_ = 0;
  }
  passes_[passes_count_++] = {pass, 1};
}

scheduler::HoleBytes Replay::range() const {
  scheduler::HoleBytes out = range_;
  for (size_t i = 0; i < passes_count_; ++i) {
    const auto& [pass, count] = passes_[i];
    const scheduler::HoleBytes of = scheduler::holes_bytes(plan_, workload_, pass);
    out.least += of.least * count;
    out.most += of.most * count;
  }
  return out;
}

Bytes Replay::bytes() const {
  Bytes sum = 0;
  for (const scheduler::ByteRow& row : rows_) sum += row.bytes;
  return sum;
}

Bytes Replay::held(uint32_t pool) const {
  const auto& slots = pools_[pool].slots;
  const auto filled = std::count_if(slots.begin(), slots.end(),
                                    [](const auto& entry) { return entry.turn != kNone; });
  return plan_.pools[pool].slot_bytes * static_cast<Bytes>(filled);
}

}  // namespace headrace::engine
