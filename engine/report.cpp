#include "engine/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/limits.h"
#include "scheduler/fill.h"
#include "scheduler/kv.h"

namespace headrace::engine {

namespace {

double rate(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

struct SwapRow {
  Edge edge;
  Kind kind;
  Bytes predicted = 0, counted = 0;
  uint64_t operations = 0;
};

std::vector<SwapRow> swap_rows(Session& session) {
  std::vector<SwapRow> rows;
  const auto at = [&](Edge edge, Kind kind) -> SwapRow& {
    for (SwapRow& row : rows) {
      if (row.edge == edge && row.kind == kind) return row;
    }
    return rows.emplace_back(SwapRow{.edge = edge, .kind = kind});
  };
  for (const swap::LedgerRow& row : session.counted()) {
    SwapRow& r = at(row.edge, row.kind);
    r.counted += row.bytes;
    r.operations += row.operations;
  }
  for (const scheduler::ByteRow& row : session.predicted())
    at(row.edge, row.kind).predicted += row.bytes;
  return rows;
}

bool decided_edge(const Session& session, Edge edge) {
  return std::any_of(session.plan().pools.begin(), session.plan().pools.end(),
                     [&](const scheduler::Pool& pool) {
                       return edge == Edge{Tier::kDisk, pool.tier};
                     });
}

}  // namespace

json::object memory_json(const Session& session) {
  const scheduler::Plan& plan = session.plan();
  const Bytes work = plan.memory.kv + plan.memory.activations;
  json::object tiers;
  if (plan.arena_bytes[0] != 0) {
    tiers["device"] = json::object{{"budget", plan.arena_bytes[0]}, {"peak", plan.arena_bytes[0]}};
  }
  tiers["host"] = json::object{{"budget", plan.budget - plan.arena_bytes[0]},
                               {"peak", plan.arena_bytes[1] + work}};
  return {{"budget", plan.budget}, {"peak_rss", peak_rss()}, {"tiers", tiers}};
}

json::object plan_json(const scheduler::Plan& plan, double planning_ms) {
  const scheduler::MemorySplit& m = plan.memory;
  json::object memory{{"base", m.base},
                      {"resident_weights", m.resident_weights},
                      {"stream_ring", m.stream_ring},
                      {"kv", m.kv},
                      {"activations", m.activations},
                      {"gradients", m.gradients},
                      {"optimizer", m.optimizer},
                      {"workspace", m.workspace},
                      {"io", m.io},
                      {"slack", m.slack}};
  json::object o{{"policy", plan.policy},
                 {"numerics", plan.numerics},
                 {"budget", plan.budget},
                 {"weights_bytes", plan.weights_bytes},
                 {"memory", memory},
                 {"prefetch_depth", plan.prefetch_depth},
                 {"rows", plan.rows_max},
                 {"bytes", plan.bytes},
                 {"bound_bytes", plan.bound_bytes},
                 {"predicted_s", plan.predicted_s},
                 {"why", plan.why},
                 {"planning_ms", planning_ms}};
  o["sequences"] = plan.sequences;
  if (plan.kv.slots > 0) {
    o["kv"] = json::object{{"layers", plan.kv.layers},
                           {"streamed_layers", plan.kv.streamed.size()},
                           {"slots", plan.kv.slots},
                           {"blocks", plan.kv_blocks}};
  }
  if (!plan.pools.empty() || plan.kv.slots > 0) {
    o["least_bytes"] = plan.bytes_least;
    o["most_bytes"] = plan.bytes_most;
  }
  return o;
}

json::array swap_json(Session& session) {
  json::array out;
  const scheduler::HoleBytes range = session.replay().range();
  for (const SwapRow& row : swap_rows(session)) {
    json::object o{{"edge", name_of(row.edge)},
                   {"kind", name_of(row.kind)},
                   {"predicted_bytes", row.predicted},
                   {"counted_bytes", row.counted},
                   {"operations", row.operations}};
    if (row.kind == Kind::kWeights && decided_edge(session, row.edge)) {
      const Bytes fixed = row.predicted - std::min(row.predicted, session.replay().bytes());
      o["predicted_least_bytes"] = fixed + range.least;
      o["predicted_most_bytes"] = fixed + range.most;
    }
    out.push_back(o);
  }
  return out;
}

json::value planned_experts_json(const scheduler::Plan& plan, const scheduler::Workload& workload) {
  const auto rate = scheduler::expected_hit_rate(plan, workload, plan.sequences);
  if (!rate) return nullptr;
  return json::object{{"expected_hit_rate", *rate}};
}

json::value experts_json(const Session& session) {
  const ExpertCounts& counts = session.replay().experts();
  if (counts.hits + counts.misses == 0) return nullptr;
  json::object out{
      {"hits", counts.hits}, {"misses", counts.misses}, {"hit_rate", counts.hit_rate()}};
  return out;
}

json::object timings_json(const Session& session, const RunTimings& timings) {
  return timings_json(session.timings(), session.prepared().tensors, timings);
}

json::object timings_json(const SessionTimings& start, uint64_t transforms, const RunTimings& t) {
  return {{"prepare_s", start.prepare_s},
          {"load_s", start.load_s},
          {"prefill_s", t.prefill_s},
          {"decode_s", t.decode_s},
          {"prefill_tokens_per_second", rate(static_cast<double>(t.prompt_tokens), t.prefill_s)},
          {"decode_tokens_per_second", rate(static_cast<double>(t.decode_tokens), t.decode_s)},
          {"passes", t.passes},
          {"transforms", transforms}};
}

json::object stall_json(Session& session) {
  const ExecutorCounters& c = session.executor().counters();
  json::object by_cause;
  for (size_t i = 0; i < kStallCauses; ++i) {
    by_cause[name_of(static_cast<StallCause>(i))] = c.stall_s[i];
  }
  return {{"seconds", c.stalled_s()}, {"by_cause", by_cause}};
}

std::string swap_table(Session& session) {
  const scheduler::Plan& plan = session.plan();
  std::string text = fmt::format("{:<14} {:<10} {:>16} {:>16} {:>11}\n", "edge", "kind",
                                 "predicted", "counted", "operations");
  for (const SwapRow& row : swap_rows(session)) {
    text += fmt::format("{:<14} {:<10} {:>16} {:>16} {:>11}\n", name_of(row.edge),
                        name_of(row.kind), row.predicted, row.counted, row.operations);
  }
  const ExpertCounts& experts = session.replay().experts();
  if (experts.misses != 0) {
    text += fmt::format("experts: {} of {} picks were there ({:.1f} %)\n", experts.hits,
                        experts.hits + experts.misses, experts.hit_rate() * 100);
  }
  text += fmt::format("a decode pass moves {}; no schedule within {} moves less than {}\n",
                      format_bytes(plan.bytes), format_bytes(plan.budget),
                      format_bytes(plan.bound_bytes));
  return text;
}

std::string summary_line(Session& session, const RunTimings& t) {
  const ExecutorCounters& c = session.executor().counters();
  return fmt::format(
      "{} prompt tokens at {:.1f}/s, {} decoded at {:.2f}/s; load {:.2f} s, stalled {:.2f} s; peak "
      "{} of "
      "{}; policy {} ({})",
      t.prompt_tokens, rate(static_cast<double>(t.prompt_tokens), t.prefill_s), t.decode_tokens,
      rate(static_cast<double>(t.decode_tokens), t.decode_s), session.timings().load_s,
      c.stalled_s(), format_bytes(peak_rss()), format_bytes(session.plan().budget),
      session.plan().policy, session.plan().why);
}

namespace {

// The layer that each object belongs to; -1: embedding and head.
std::vector<int64_t> layers_of(const scheduler::Workload& workload) {
  std::vector<int64_t> layers(workload.objects.size(), -1);
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.layer == kNone) continue;
    for (const auto* list : {&segment.weights, &segment.candidates}) {
      for (ObjectId id : *list) layers[id] = segment.layer;
    }
  }
  return layers;
}

// The layer of every array of the scratch file.
std::vector<int64_t> kv_layers_of(const scheduler::Plan& plan,
                                  const scheduler::Workload& workload) {
  std::vector<int64_t> layers;
  const std::vector<SegmentId> segments = scheduler::kv_segments(workload);
  for (uint32_t i : plan.kv.streamed) layers.push_back(workload.segments[segments[i]].layer);
  return layers;
}

struct LayerRow {
  int64_t layer = -1;
  Edge edge;
  Kind kind = Kind::kWeights;
  Bytes bytes = 0;
};

std::vector<LayerRow> predicted_by_layer(Session& session, const std::vector<int64_t>& layers,
                                         const std::vector<int64_t>& kv_layers) {
  const scheduler::Plan& plan = session.plan();
  const scheduler::Workload& workload = session.workload();
  std::vector<LayerRow> rows;
  const auto add = [&](int64_t layer, Edge edge, Kind kind, Bytes bytes) {
    if (bytes == 0) return;
    for (LayerRow& row : rows) {
      if (row.layer == layer && row.edge == edge && row.kind == kind) {
        row.bytes += bytes;
        return;
      }
    }
    rows.push_back({layer, edge, kind, bytes});
  };
  const auto add_round = [&](const scheduler::Round& round, uint64_t times) {
    for (const scheduler::Task& task : round.tasks) {
      if (task.object >= layers.size() || !task.counted) continue;
      add(layers[task.object], task.edge, workload.objects[task.object].kind, task.bytes * times);
    }
  };
  add_round(plan.enter, 1);
  add_round(plan.steady, session.executor().counters().passes);
  for (uint32_t h = 0; h < plan.holes.size(); ++h) {
    const scheduler::Hole& hole = plan.holes[h];
    if (hole.pool == kNone) continue;
    const uint32_t layer = workload.segments[hole.segment].layer;
    add(layer == kNone ? -1 : int64_t{layer}, {Tier::kDisk, plan.pools[hole.pool].tier},
        Kind::kWeights, session.replay().bytes(h));
  }
  for (const KvReplay& replay : session.kv_replay()) {
    for (uint32_t index : replay.group.members) {
      for (const auto& row : replay.rows) add(kv_layers[index], row.edge, row.kind, row.bytes);
    }
  }
  return rows;
}

}  // namespace

json::object trace_json(Session& session) {
  const std::vector<int64_t> layers = layers_of(session.workload());
  const std::vector<int64_t> kv_layers = kv_layers_of(session.plan(), session.workload());
  json::array by_layer;
  for (const LayerRow& row : predicted_by_layer(session, layers, kv_layers)) {
    by_layer.push_back(json::object{{"layer", row.layer},
                                    {"edge", name_of(row.edge)},
                                    {"kind", name_of(row.kind)},
                                    {"predicted_bytes", row.bytes}});
  }
  return {{"model", session.folder().path},
          {"passes", session.executor().counters().passes},
          {"plan", plan_json(session.plan(), session.planning_ms())},
          {"swap", swap_json(session)},
          {"layers", by_layer},
          {"object_layers", json::array(layers.begin(), layers.end())},
          {"kv_layers", json::array(kv_layers.begin(), kv_layers.end())}};
}

json::array planned_swap_json(const scheduler::Plan& plan, const scheduler::Workload& workload) {
  json::array out;
  const auto add = [&](const scheduler::ByteRow& row, const char* phase) -> json::object& {
    return out
        .emplace_back(json::object{{"phase", phase},
                                   {"edge", name_of(row.edge)},
                                   {"kind", name_of(row.kind)},
                                   {"predicted_bytes", row.bytes},
                                   {"operations", row.operations}})
        .as_object();
  };
  for (const scheduler::ByteRow& row : scheduler::bytes_of(plan.enter)) add(row, "first");
  for (const scheduler::PassRow& part :
       scheduler::pass_bytes_by_edge(plan, workload, plan.sequences)) {
    json::object& o = add(part.row, "steady");
    if (part.least == part.most) continue;
    o["predicted_least_bytes"] = part.least;
    o["predicted_most_bytes"] = part.most;
  }
  return out;
}

json::array alternatives_json(const scheduler::Plan& plan) {
  json::array out;
  for (const scheduler::Alternative& a : plan.alternatives) {
    json::object o{{"policy", a.policy}, {"prefetch_depth", a.prefetch_depth}, {"rows", a.rows_max},
                   {"bytes", a.bytes},   {"predicted_s", a.predicted_s},       {"why", a.why}};
    if (a.required_bytes != 0) o["required_bytes"] = a.required_bytes;
    out.push_back(o);
  }
  return out;
}

}  // namespace headrace::engine
