#include "scheduler/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "scheduler/fill.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {
namespace {

// amount / rate, where a machine that does not say its rate may not be asked.
double seconds(const Machine& machine, double amount, double rate, const char* what) {
  if (amount <= 0) return 0;
  if (!(rate > 0)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("machine '{}': it has no figure for {}; add it to the description or "
                            "calibrate",
                            machine.name, what))
        .at_field(what);
  }
  return amount / rate;
}

struct Speed {
  double bytes_per_s = 0, latency_s = 0;
  std::string what;
};

Speed speed_of(const Machine& machine, Edge edge) {
  for (const Rate& rate : machine.rates) {
    if (rate.edge == edge) return {rate.bytes_per_s, rate.latency_s, name_of(edge)};
  }
  if (edge.from != Tier::kDisk && edge.to != Tier::kDisk) {
    return {machine.memory_read_bytes_per_s, 0, "memory_read_Bps"};
  }
  return {0, 0, name_of(edge)};
}

}  // namespace

double overlapped(double read_s, double multiply_s) {
  return std::cbrt(read_s * read_s * read_s + multiply_s * multiply_s * multiply_s);
}

double ComputeCost::seconds(const PassRows& pass) const {
  const double rows = per_output ? pass.outputs : pass.rows;
  double weights = weight_s;
  double products = row_s * rows;
  if (experts > 0) {
    // Distinct experts of independent, uniform choices without repetition within a row.
    weights += expert_s * experts * picked_by(rows, choices / experts);
  }
  const double context = static_cast<double>(pass.rows) * pass.context;
  return overlapped(weights, products) + context * overlapped(attention_read_s, attention_flops_s);
}

Costs::Costs(const Plan& plan, const Workload& workload, const Machine& machine)
    : plan_(plan), workload_(workload), machine_(machine) {
  flops_ = workload.bf16_products ? machine.matmul_flops_bf16 : machine.matmul_flops_f32;
  flops_name_ = workload.bf16_products ? "matmul_flops.bfloat16" : "matmul_flops.float32";
  segment_bytes_.reserve(workload.segments.size());
  for (const SegmentSpec& segment : workload.segments) {
    double sum = 0;
    for (ObjectId object : segment.weights) {
      sum += static_cast<double>(workload.objects.at(object).bytes());
    }
    segment_bytes_.push_back(sum);
  }
}

CostTable Costs::table(const Round& round) const {
  CostTable table{&round,
                  std::vector<double>(round.tasks.size()),
                  std::vector<ComputeCost>(round.tasks.size()),
                  {}};
  std::vector<uint32_t> last(workload_.segments.size(), kNone);
  std::vector<uint32_t> count(workload_.segments.size(), 0);
  for (uint32_t t = 0; t < round.tasks.size(); ++t) {
    const Task& task = round.tasks[t];
    table.lanes.at(static_cast<size_t>(task.lane)).push_back(t);
    if (task.kind == TaskKind::kFetch || task.kind == TaskKind::kCopy) {
      table.transfer_s[t] = transfer(task);
    } else if (task.lane == Lane::kCompute) {
      last.at(task.segment) = t;
      ++count[task.segment];
    }
  }
  for (uint32_t t = 0; t < round.tasks.size(); ++t) {
    const Task& task = round.tasks[t];
    if (task.lane != Lane::kCompute) continue;
    table.compute[t] = compute(round, task, count[task.segment], last[task.segment] == t);
  }
  return table;
}

const Costs::Demand& Costs::demand(uint32_t hole, const PassRows& pass) {
  const auto [found, is_new] = demands_.try_emplace({hole, pass.rows, pass.outputs});
  if (is_new) {
    const Hole& what = plan_.holes.at(hole);
    Demand& demand = found->second;
    demand.bytes = hole_bytes(plan_, workload_, what, pass).expected;
    if (demand.bytes > 0) {
      // What one hole wants is asked for at once: one latency, not one a chunk.
      demand.read_s = through({Tier::kDisk, Tier::kHost}, static_cast<double>(demand.bytes));
      if (plan_.pools.at(what.pool).tier == Tier::kDevice) {
        demand.copy_s = through({Tier::kHost, Tier::kDevice}, static_cast<double>(demand.bytes));
      }
    }
  }
  return found->second;
}

double Costs::move_kv(const Task& task, const PassRows& rows) const {
  const bool reads = task.kind == TaskKind::kKvRead;
  const KvBytes bytes =
      kv_expected_of(plan_, workload_, rows, reads ? task.to.index : task.from.index);
  if ((reads ? bytes.read : bytes.written) == 0) return 0;
  return reads ? through({Tier::kDisk, Tier::kHost}, static_cast<double>(bytes.read))
               : through({Tier::kHost, Tier::kDisk}, static_cast<double>(bytes.written));
}

double Costs::through(Edge edge, double bytes) const {
  const Speed speed = speed_of(machine_, edge);
  return speed.latency_s + seconds(machine_, bytes, speed.bytes_per_s, speed.what.c_str());
}

double Costs::transfer(const Task& task) const {
  const auto bytes = static_cast<double>(task.bytes);
  switch (task.lane) {
    case Lane::kDiskRead:
      return through({Tier::kDisk, Tier::kHost}, bytes);
    case Lane::kDiskWrite:
      return through({Tier::kHost, Tier::kDisk}, bytes);
    case Lane::kHostToDevice:
      return through({Tier::kHost, Tier::kDevice}, bytes);
    case Lane::kDeviceToHost:
      return through({Tier::kDevice, Tier::kHost}, bytes);
    case Lane::kCompute:
    case Lane::kUpdate:
    case Lane::kLink:
      break;
  }
  throw Error(ErrorCode::kFormat,
              "plan: a transfer stands on a lane that moves nothing; plan "
              "again");
}

ComputeCost Costs::compute(const Round& round, const Task& task, uint32_t tasks,
                           bool is_last) const {
  const SegmentSpec& segment = workload_.segments.at(task.segment);
  ComputeCost cost;
  double bytes = 0;
  for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) {
    const Use& use = round.uses.at(u);
    bytes += static_cast<double>(workload_.objects.at(use.object).chunks.at(use.chunk));
  }
  const double whole = segment_bytes_[task.segment];
  // A router's weights always stay and need not be listed; a segment without weights shares
  // its products evenly among its tasks.
  if (task.kind == TaskKind::kRoute && bytes == 0) bytes = whole / tasks;
  double share = whole > 0 ? bytes / whole : 1.0 / tasks;
  if (task.hole != kNone) {
    const Hole& hole = plan_.holes.at(task.hole);
    if (hole.pool != kNone) cost.hole = task.hole;
    if (task.kind == TaskKind::kExperts) share = expert_cost(segment, hole, cost);
  }
  cost.weight_s = read(bytes);
  cost.row_s = product(segment.cost.flops_per_row) * share;
  cost.per_output = segment.per_output;
  if (is_last) {
    cost.attention_flops_s = product(segment.cost.flops_per_row_context);
    cost.attention_read_s = read(static_cast<double>(segment.cost.kv_bytes_per_row));
  }
  return cost;
}

// Fills in the experts' figures; the result is how often a row pays the cost of one expert.
double Costs::expert_cost(const SegmentSpec& segment, const Hole& hole, ComputeCost& cost) const {
  double bytes = 0;
  for (ObjectId expert : segment.candidates) {
    bytes += static_cast<double>(workload_.objects.at(expert).bytes());
  }
  cost.experts = static_cast<double>(segment.candidates.size());
  cost.choices = std::min<double>(hole.choices_per_row, cost.experts);
  if (cost.experts > 0) cost.expert_s = read(bytes / cost.experts);
  return cost.choices;
}

double Costs::read(double bytes) const {
  return seconds(machine_, bytes, machine_.memory_read_bytes_per_s, "memory_read_Bps");
}
double Costs::product(double flops) const { return seconds(machine_, flops, flops_, flops_name_); }

}  // namespace headrace::scheduler
