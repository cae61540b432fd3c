// What a run reports: the JSON of the command-line contract and the table that people read.
#pragma once

#include <string>

#include "core/json.h"
#include "engine/session.h"

namespace headrace::engine {

struct RunTimings {
  double prefill_s = 0, decode_s = 0;
  // Of prompts those that were computed: what requests share is computed once.
  uint64_t prompt_tokens = 0, decode_tokens = 0, passes = 0;
};

json::object memory_json(const Session& session);
json::object plan_json(const scheduler::Plan& plan, double planning_ms);
json::array swap_json(Session& session);  // predicted beside counted; drains first
// What routers picked and what of it was there; planned: what of it is expected to be. Null when
// nothing is routed, or fetched.
json::value experts_json(const Session& session);
json::value planned_experts_json(const scheduler::Plan& plan, const scheduler::Workload& workload);
json::object timings_json(const Session& session, const RunTimings& timings);
json::object timings_json(const SessionTimings& start, uint64_t transforms, const RunTimings& run);
json::object stall_json(Session& session);
std::string swap_table(Session& session);  // lines for people
std::string summary_line(Session& session, const RunTimings& timings);

// What a trace says of its run besides events: model, plan, swap rows, bytes predicted by layer and
// the layer of every object (docs/format/trace.md).
json::object trace_json(Session& session);

// `plan --json`: rows of the first pass (enter) and of one steady pass, keys and
// values and what data decide as expected.
json::array planned_swap_json(const scheduler::Plan& plan, const scheduler::Workload& workload);
json::array alternatives_json(const scheduler::Plan& plan);

}  // namespace headrace::engine
