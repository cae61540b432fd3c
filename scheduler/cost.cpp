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

// From a pick that is missed to the disk's thread and back: two threads wake up, the last chunk is
// verified.
constexpr double kHandOverS = 0.2e-3;
// A disk has its rate with several requests under way. What is waited for begins or ends with one
// that is alone, of a chunk or so much, and that one's own time comes on top; where --disk-rate
// holds the disk, each request leaves when its share of the rate has passed, and then takes its own
// time. Measured on 2 threads of an EPYC, a disk of 3.4 GB/s, held to 0.3 and 0.8 GB/s and not at
// all: beyond bytes / rate, 0.25 ms for 64 KiB and 0.7 ms for 3 MiB in two chunks.
constexpr double kAlone = 2 * kMiB;

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
  double bytes_per_s = 0, latency_s = 0, own = 0;  // own: Rate::own_bytes_per_s
  std::string what;
};

Speed speed_of(const Machine& machine, Edge edge) {
  for (const Rate& rate : machine.rates) {
    if (rate.edge == edge)
      return {rate.bytes_per_s, rate.latency_s, rate.own_bytes_per_s, name_of(edge)};
  }
  if (edge.from != Tier::kDisk && edge.to != Tier::kDisk) {
    return {machine.memory_read_bytes_per_s, 0, 0, "memory_read_Bps"};
  }
  return {0, 0, 0, name_of(edge)};
}

// That none, one, two, … are missed where `picks` are, as likely each, and `missed` are on average.
std::vector<double> chances_of(double picks, double missed) {
  const double n = std::max(1.0, std::ceil(std::max(picks, missed) - 1e-9));
  const double share = std::min(1.0, missed / n);
  std::vector<double> out(static_cast<size_t>(n) + 1, 0.0);
  if (share >= 1.0) {
    out.back() = 1.0;
    return out;
  }
  double log = n * std::log1p(-share);
  const double odds = std::log(share) - std::log1p(-share);
  for (size_t k = 0; k < out.size(); ++k) {
    out[k] = std::exp(log);
    log += odds + std::log((n - static_cast<double>(k)) / static_cast<double>(k + 1));
  }
  return out;
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
    const HoleBytes bytes = hole_bytes(plan_, workload_, what, pass);
    Demand& demand = found->second;
    demand.bytes = bytes.expected;
    if (demand.bytes > 0) add_times(what, bytes.picks, demand);
  }
  return found->second;
}

void Costs::add_times(const Hole& hole, double picks, Demand& demand) const {
  const SegmentSpec& segment = workload_.segments.at(hole.segment);
  const bool rows = segment.kind == SegmentKind::kEmbed;
  double bytes = 0, chunks = 0;  // of all candidates
  for (ObjectId object : segment.candidates) {
    bytes += static_cast<double>(workload_.objects.at(object).bytes());
    chunks += static_cast<double>(workload_.objects[object].chunks.size());
  }
  const double candidates = rows ? chunks : static_cast<double>(segment.candidates.size());
  const double pick = bytes / candidates, chunk = bytes / chunks;
  const double missed = static_cast<double>(demand.bytes) / pick;
  const Speed disk = speed_of(machine_, {Tier::kDisk, Tier::kHost});
  demand.each_s = seconds(machine_, pick, disk.bytes_per_s, disk.what.c_str());
  demand.late_s =
      kHandOverS + disk.latency_s + std::min(chunk, kAlone) / std::max(disk.bytes_per_s, disk.own);
  demand.chances = chances_of(picks, missed);
  if (plan_.pools.at(hole.pool).tier == Tier::kDevice) {
    // Through one staging slot: chunk after chunk, each read and copied before the next.
    const double times = missed * (rows ? 1.0 : chunks / candidates);
    demand.read_s = times * demand.late_s + missed * demand.each_s;
    const Speed copy = speed_of(machine_, {Tier::kHost, Tier::kDevice});
    demand.copy_s = times * copy.latency_s + seconds(machine_, static_cast<double>(demand.bytes),
                                                     copy.bytes_per_s, copy.what.c_str());
    return;
  }
  demand.read_s = (1 - demand.chances.front()) * demand.late_s + missed * demand.each_s;
}

// k of n picks are missed: they come one after the other, from late_s on, and computing ends when
// the slowest way through both lanes does: all of them computed with, or the last to come, or all
// that are missed from when the first has come.
double Costs::Demand::wait_s(double behind_s, double compute_s) const {
  if (copy_s > 0) return (1 - chances.front()) * behind_s + read_s;
  const double one_s = compute_s / static_cast<double>(chances.size() - 1);
  double sum = 0;
  for (size_t k = 1; k < chances.size(); ++k) {
    const double missed = static_cast<double>(k);
    const double come_s = behind_s + late_s + each_s;  // of the first
    const double end_s = come_s + (missed - 1) * std::max(each_s, one_s) + one_s;
    sum += chances[k] * std::max(0.0, end_s - compute_s);
  }
  return sum;
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
