// How the simulator counts time.
//
// A task starts when it heads its lane and its edges are done; lanes run beside each other. The
// disk is one server for its read and its write lane when it is half-duplex (then the head that
// became ready first goes first). A transfer takes latency + bytes / rate, operation by operation:
// latency is not overlapped within a lane, which is pessimistic by at most one latency a chunk and
// keeps every prediction a closed recurrence that a test can write down.
//
// A fetch runs at the rate of disk->host and a copy at that of host->device, whatever edge the
// ledger counts them on; a machine without a device (both tiers are memory of the host) copies at
// the rate at which memory is read. What a task reads through a hole goes before queued prefetches
// but after the transfer in flight. How much that is, is chance: the disk is busy for the expected
// reads, and the task takes longer by the expected wait (Costs::Demand).
#include "scheduler/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "scheduler/cost.h"
#include "scheduler/enter.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kNotDone = -1;
constexpr size_t kComputeLane = static_cast<size_t>(Lane::kCompute);
constexpr size_t kReadLane = static_cast<size_t>(Lane::kDiskRead);
constexpr size_t kWriteLane = static_cast<size_t>(Lane::kDiskWrite);
constexpr size_t kCopyLane = static_cast<size_t>(Lane::kHostToDevice);

// What compute waits for, by the lane that was working meanwhile.
constexpr const char* kCauses[kLanes] = {"compute",   "disk_read", "disk_write", "copy",
                                         "copy_back", "update",    "link"};
constexpr const char* kTaskNames[] = {"fetch", "copy",    "embed",   "forward",
                                      "route", "experts", "kv read", "kv write"};

// An instance is a task in a round: enter's tasks first, then those of steady round 0, 1, …
class Simulation {
 public:
  Simulation(const Plan& plan, const Workload& workload, const Machine& machine,
             const std::vector<PassRows>& passes)
      : plan_(plan),
        workload_(workload),
        half_duplex_(machine.half_duplex_disk),
        passes_(passes),
        costs_(plan, workload, machine),
        enter_(costs_.table(plan.enter)),
        steady_(costs_.table(plan.steady)),
        match_(match_enter(plan, workload)) {
    const uint64_t count = plan.enter.tasks.size() + passes.size() * plan.steady.tasks.size();
    HEADRACE_ASSERT(count < kNone, fmt::format("{} task instances", count));
    begin_.assign(count, 0);
    end_.assign(count, kNotDone);
    binding_.assign(count, kNone);
    for (size_t lane = 0; lane < kLanes; ++lane) head(lane);
  }

  Timeline run(bool keep_intervals) {
    while (true) {
      start_all();
      double next = kNever;
      for (const LaneState& lane : lanes_) {
        if (lane.stage != Stage::kIdle) next = std::min(next, lane.until_s);
      }
      if (disk_until_s_ > now_) next = std::min(next, disk_until_s_);
      if (next == kNever) break;
      now_ = next;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        if (lanes_[lane].stage != Stage::kIdle && lanes_[lane].until_s == now_) advance(lane);
      }
    }
    report_deadlock();
    summarise(keep_intervals);
    return std::move(timeline_);
  }

 private:
  enum class Stage : uint8_t { kIdle, kRead, kWantCopy, kCopy, kWork };

  struct LaneState {
    int32_t round = -1;         // of the head; -1: enter
    uint32_t position = 0;      // of the head, in that round's list of the lane
    uint32_t edge = 0;          // first edge of the head that is not known to be done
    uint32_t use = 0;           // in the first pass: first use of what may not be loaded
    uint32_t previous = kNone;  // instance that ran last
    uint32_t latest = kNone;    // of the head's edges, the one that ended last
    bool exhausted = false;
    bool ready = false;
    double ready_s = 0;  // since when the head could run
    double free_s = 0;   // when the lane's last task ended
    Stage stage = Stage::kIdle;
    double until_s = kNever;  // end of the stage; never: it waits for a server
  };

  const CostTable& table(int32_t round) const { return round < 0 ? enter_ : steady_; }
  uint32_t first_of(int32_t round) const {
    return round < 0
               ? 0
               : static_cast<uint32_t>(plan_.enter.tasks.size() +
                                       static_cast<size_t>(round) * plan_.steady.tasks.size());
  }
  int32_t round_of(uint32_t instance) const {
    const auto enter = static_cast<uint32_t>(plan_.enter.tasks.size());
    if (instance < enter) return -1;
    return static_cast<int32_t>((instance - enter) / plan_.steady.tasks.size());
  }
  const Task& task_of(uint32_t instance) const {
    const int32_t round = round_of(instance);
    return table(round).round->tasks[instance - first_of(round)];
  }
  const PassRows& rows_of(int32_t round) const {
    static const PassRows kOne;
    if (round < 0) return passes_.empty() ? kOne : passes_.front();
    return passes_[static_cast<size_t>(round)];
  }

  // In the first pass what stays must have been loaded where it is read; of a hole's candidates,
  // all are waited for.
  bool is_loaded(LaneState& state, const Task& task) {
    const auto done = [&](uint32_t loader) {
      if (loader == kNone) return true;
      if (end_[loader] == kNotDone) return false;
      if (state.latest == kNone || end_[loader] > end_[state.latest]) state.latest = loader;
      return true;
    };
    const auto place = [&](const Slot& slot) {
      return slot.space != Space::kResident || done(match_.of_resident.at(slot.index));
    };
    const std::vector<Use>& uses = plan_.steady.uses;
    for (; task.uses.begin + state.use < task.uses.end; ++state.use) {
      if (!place(uses.at(task.uses.begin + state.use).slot)) return false;
    }
    return place(task.from) && (task.hole == kNone || done(match_.of_hole.at(task.hole)));
  }

  enum class Target : uint8_t { kInstance, kNothing, kMissing };

  // What an edge of a task in `round` waits for. Nothing stands before the enter round, and of the
  // first pass's predecessor only what enter has in its place.
  Target resolve(const TaskRef& ref, int32_t round, uint32_t& instance) const {
    const int64_t target = static_cast<int64_t>(round) + ref.round;
    if (round < 0 ? ref.round < 0 : target < -1) return Target::kNothing;
    if (round >= 0 && target == -1) {
      if (ref.task >= match_.of_task.size()) return Target::kMissing;
      instance = match_.of_task[ref.task];
      return instance == kNone ? Target::kNothing : Target::kInstance;
    }
    if (target >= static_cast<int64_t>(passes_.size())) return Target::kMissing;
    const auto in = static_cast<int32_t>(target);
    if (ref.task >= table(in).round->tasks.size()) return Target::kMissing;
    instance = first_of(in) + ref.task;
    return Target::kInstance;
  }

  // Sets the lane's head to its next task, skipping rounds without any.
  void head(size_t lane) {
    LaneState& state = lanes_[lane];
    while (state.position >= table(state.round).lanes[lane].size()) {
      if (state.round + 1 >= static_cast<int32_t>(passes_.size())) {
        state.exhausted = true;
        return;
      }
      ++state.round;
      state.position = 0;
    }
    state.edge = head_task(lane).after.begin;
    state.use = 0;
    state.latest = kNone;
    state.ready = false;
  }
  uint32_t head_index(size_t lane) const {
    const LaneState& state = lanes_[lane];
    return table(state.round).lanes[lane][state.position];
  }
  const Task& head_task(size_t lane) const {
    return table(lanes_[lane].round).round->tasks[head_index(lane)];
  }
  uint32_t head_instance(size_t lane) const {
    return first_of(lanes_[lane].round) + head_index(lane);
  }

  // Edges are looked at once each, in order, so that polling costs nothing per edge that is done.
  bool is_ready(size_t lane) {
    LaneState& state = lanes_[lane];
    if (state.exhausted || state.stage != Stage::kIdle) return false;
    if (state.ready) return true;
    const Round& round = *table(state.round).round;
    for (const uint32_t end = head_task(lane).after.end; state.edge < end; ++state.edge) {
      uint32_t instance = kNone;
      switch (resolve(round.after.at(state.edge), state.round, instance)) {
        case Target::kNothing:
          continue;
        case Target::kMissing:
          return false;
        case Target::kInstance:
          break;
      }
      if (end_[instance] == kNotDone) return false;
      if (state.latest == kNone || end_[instance] > end_[state.latest]) state.latest = instance;
    }
    if (state.round == 0 && !is_loaded(state, head_task(lane))) return false;
    state.ready = true;
    state.ready_s = now_;
    return true;
  }

  bool disk_free(size_t lane) const {
    if (now_ < disk_until_s_ && (lane == kReadLane || half_duplex_)) return false;
    const size_t other = lane == kReadLane ? kWriteLane : kReadLane;
    return !(half_duplex_ && lanes_[other].stage != Stage::kIdle);
  }
  // A demand read takes the disk before anything that is queued.
  bool may_start(size_t lane) {
    if (lane == kCopyLane) return !copy_held_;
    if (lane != kReadLane && lane != kWriteLane) return true;
    if (!disk_free(lane)) return false;
    const size_t other = lane == kReadLane ? kWriteLane : kReadLane;
    if (!half_duplex_ || !is_ready(other)) return true;
    return std::pair(lanes_[lane].ready_s, lane) < std::pair(lanes_[other].ready_s, other);
  }

  void start_all() {
    // Starting one task never makes another ready, but the compute lane may claim a server, so it
    // goes first (it is lane 0); the disk's other lane gets its turn in the second sweep.
    for (int sweep = 0; sweep < 2; ++sweep) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        if (lane == kComputeLane) claim();
        if (is_ready(lane) && may_start(lane)) start(lane);
        if (lane == kComputeLane) claim();
      }
    }
  }

  void start(size_t lane) {
    LaneState& state = lanes_[lane];
    const uint32_t instance = head_instance(lane);
    begin_[instance] = now_;
    if (state.latest != kNone && end_[state.latest] > state.free_s) {
      binding_[instance] = state.latest;
    } else {
      binding_[instance] = state.previous;
    }
    state.previous = instance;
    if (lane == kComputeLane && now_ > state.free_s) idle_.push_back({state.free_s, now_});
    const double work_s = work(state.round, head_index(lane));
    state.stage = Stage::kWork;
    state.until_s = now_ + work_s;
    if (lane != kComputeLane) return;
    work_s_ = work_s;
    const uint32_t hole = table(state.round).compute[head_index(lane)].hole;
    if (hole != kNone) demand(hole);
  }

  // The compute lane's head, just started, reads through a hole: behind what the disk is busy with.
  void demand(uint32_t hole) {
    LaneState& state = lanes_[kComputeLane];
    demand_ = &costs_.demand(hole, rows_of(state.round));
    if (demand_->bytes == 0) return;
    double free_s = std::max(now_, disk_until_s_);
    for (const size_t lane : {kReadLane, kWriteLane}) {
      const bool busy = lanes_[lane].stage != Stage::kIdle && (lane == kReadLane || half_duplex_);
      if (busy) free_s = std::max(free_s, lanes_[lane].until_s);
    }
    disk_until_s_ = free_s + demand_->read_s;
    timeline_.busy_s[kReadLane] += demand_->read_s;
    const double wait_s = demand_->wait_s(free_s - now_, work_s_);
    stall_s_[kReadLane] += wait_s;
    const bool copies = demand_->copy_s > 0;  // before anything is computed
    if (copies) state.stage = Stage::kRead;
    state.until_s = now_ + wait_s + (copies ? 0 : work_s_);
  }

  double work(int32_t round, uint32_t task) const {
    const CostTable& costs = table(round);
    const Task& what = costs.round->tasks[task];
    const TaskKind kind = what.kind;
    if (kind == TaskKind::kFetch || kind == TaskKind::kCopy) return costs.transfer_s[task];
    if (kind == TaskKind::kKvRead || kind == TaskKind::kKvWrite) {
      return costs_.move_kv(what, rows_of(round));
    }
    return costs.compute[task].seconds(rows_of(round));
  }

  // The copy of what the compute lane demanded takes its server when that is free.
  void claim() {
    LaneState& state = lanes_[kComputeLane];
    if (state.stage == Stage::kWantCopy && lanes_[kCopyLane].stage == Stage::kIdle) {
      copy_held_ = true;
      state.stage = Stage::kCopy;
      state.until_s = now_ + demand_->copy_s;
      timeline_.busy_s[kCopyLane] += demand_->copy_s;
    }
  }

  // The lane's stage is over.
  void advance(size_t lane) {
    LaneState& state = lanes_[lane];
    if (state.stage == Stage::kRead) {
      demanded_s_ = now_;
      state.stage = Stage::kWantCopy;
      state.until_s = kNever;
    } else if (state.stage == Stage::kCopy) {
      copy_held_ = false;
      stall_s_[kCopyLane] += now_ - demanded_s_;
      state.stage = Stage::kWork;
      state.until_s = now_ + work_s_;
    } else {
      finish(lane);
    }
  }

  void finish(size_t lane) {
    LaneState& state = lanes_[lane];
    const uint32_t instance = head_instance(lane);
    end_[instance] = now_;
    timeline_.busy_s[lane] += lane == kComputeLane ? work_s_ : now_ - begin_[instance];
    timeline_.makespan_s = now_;
    state.free_s = now_;
    state.stage = Stage::kIdle;
    state.until_s = kNever;
    ++state.position;
    head(lane);
  }

  // Spreads the time in which compute was idle over the lanes that made it wait: at each idle
  // moment the lane of the task that the critical path goes through, back from the last compute
  // task to what that one waited for, and so on. So of two hops the slower one is charged, although
  // compute waits for the last hop every time.
  void attribute_idle() {
    uint32_t instance = lanes_[kComputeLane].previous;
    if (instance == kNone || end_[instance] == kNotDone) return;
    double to = end_[instance];
    size_t gap = idle_.size();
    while (gap > 0 && instance != kNone) {
      const size_t lane = static_cast<size_t>(task_of(instance).lane);
      // A task that waited for a server is on the path from when it could have run.
      const uint32_t before = binding_[instance];
      const double from = before == kNone ? 0 : end_[before];
      while (gap > 0 && idle_[gap - 1].second > from) {
        auto& [begin, end] = idle_[gap - 1];
        stall_s_[lane] += std::max(0.0, std::min(end, to) - std::max(begin, from));
        if (begin < from) break;  // the rest belongs to earlier tasks of the path
        --gap;
      }
      to = from;
      instance = before;
    }
  }

  std::string describe(uint32_t instance) const {
    const int32_t round = round_of(instance);
    const Task& task = task_of(instance);
    std::string where = round < 0 ? "enter" : fmt::format("pass {}", round);
    std::string what = kTaskNames[static_cast<size_t>(task.kind)];
    if (task.object != kNone && task.object < workload_.objects.size()) {
      what += fmt::format(" {} chunk {}", workload_.objects[task.object].name, task.chunk);
    } else if (task.segment != kNone && task.segment < workload_.segments.size()) {
      what += " " + workload_.segments[task.segment].name;
    }
    return fmt::format("{} task {} ({})", where, instance - first_of(round), what);
  }

  void report_deadlock() {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const LaneState& state = lanes_[lane];
      if (state.exhausted) continue;
      timeline_.deadlock = true;
      uint32_t instance = kNone;
      const Round& round = *table(state.round).round;
      std::string waits = "a task that is not in the plan";
      if (state.edge < head_task(lane).after.end &&
          resolve(round.after[state.edge], state.round, instance) == Target::kInstance) {
        waits = describe(instance);
      }
      timeline_.deadlock_tasks +=
          fmt::format("{}{} waits for {}", timeline_.deadlock_tasks.empty() ? "" : "; ",
                      describe(head_instance(lane)), waits);
    }
  }

  // When the compute of `round` ended; of enter, when its last transfer did.
  double end_of(int32_t round) const {
    double end = 0;
    const CostTable& of = table(round);
    for (uint32_t t = 0; t < of.round->tasks.size(); ++t) {
      if (round < 0 || of.round->tasks[t].lane == Lane::kCompute) {
        end = std::max(end, end_[first_of(round) + t]);
      }
    }
    return end;
  }

  void summarise(bool keep_intervals) {
    const auto passes = static_cast<int32_t>(passes_.size());
    if (passes > 0 && !timeline_.deadlock) {
      timeline_.steady_s = std::max(0.0, end_of(passes - 1) - end_of(passes - 2));
    }
    attribute_idle();
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (stall_s_[lane] > 0) timeline_.stalls.push_back({kCauses[lane], stall_s_[lane]});
    }
    if (keep_intervals) {
      timeline_.intervals.reserve(end_.size());
      for (uint32_t i = 0; i < end_.size(); ++i) {
        if (end_[i] == kNotDone) continue;
        const int32_t round = round_of(i);
        timeline_.intervals.push_back({i - first_of(round), round, begin_[i], end_[i]});
      }
    }
    add_bytes(bytes_of(plan_.enter), 1);
    add_bytes(bytes_of(plan_.steady), passes_.size());
    add_holes();
    add_kv();
  }

  ByteRow& row_of(Edge edge, Kind kind) {
    for (ByteRow& row : timeline_.bytes) {
      if (row.edge == edge && row.kind == kind) return row;
    }
    return timeline_.bytes.emplace_back(ByteRow{edge, kind, 0, 0});
  }
  void add_bytes(const std::vector<ByteRow>& rows, uint64_t times) {
    if (times == 0) return;
    for (const ByteRow& row : rows) {
      ByteRow& sum = row_of(row.edge, row.kind);
      sum.bytes += row.bytes * times;
      sum.operations += row.operations * times;
    }
  }
  void add_kv() {
    for (const PassRows& pass : passes_) {
      const KvBytes bytes = kv_expected(plan_, workload_, pass);
      const std::pair<Edge, Bytes> rows[] = {{{Tier::kDisk, Tier::kHost}, bytes.read},
                                             {{Tier::kHost, Tier::kDisk}, bytes.written}};
      for (const auto& [edge, moved] : rows) {
        if (moved == 0) continue;
        ByteRow& row = row_of(edge, Kind::kKv);
        row.bytes += moved;
        row.operations += plan_.kv.streamed.size();
      }
    }
  }
  void add_holes() {
    for (uint32_t h = 0; h < plan_.holes.size(); ++h) {
      const Hole& hole = plan_.holes[h];
      if (hole.pool == kNone) continue;
      const SegmentSpec& segment = workload_.segments.at(hole.segment);
      if (segment.candidates.empty()) continue;
      const ObjectSpec& sample = workload_.objects.at(segment.candidates.front());
      const double chunk = static_cast<double>(sample.bytes()) /
                           static_cast<double>(std::max<size_t>(1, sample.chunks.size()));
      const Edge edge{Tier::kDisk, plan_.pools.at(hole.pool).tier};
      for (const PassRows& pass : passes_) {
        const Bytes bytes = costs_.demand(h, pass).bytes;
        if (bytes == 0) continue;
        ByteRow& row = row_of(edge, sample.kind);
        row.bytes += bytes;
        row.operations +=
            static_cast<uint64_t>(std::ceil(static_cast<double>(bytes) / std::max(1.0, chunk)));
      }
    }
  }

  const Plan& plan_;
  const Workload& workload_;
  const bool half_duplex_;
  const std::vector<PassRows>& passes_;
  Costs costs_;
  CostTable enter_, steady_;
  const EnterMatch match_;
  std::vector<double> begin_, end_;  // by instance
  std::vector<uint32_t> binding_;    // by instance: what its start waited for last
  std::array<LaneState, kLanes> lanes_;
  std::vector<std::pair<double, double>> idle_;  // of the compute lane, in order
  std::array<double, kLanes> stall_s_{};
  double now_ = 0;
  double work_s_ = 0;                      // of the compute lane's head, once its bytes are there
  const Costs::Demand* demand_ = nullptr;  // of that head
  double disk_until_s_ = 0;                // that demands keep it busy
  double demanded_s_ = 0;                  // since when the demand's copy is wanted
  bool copy_held_ = false;                 // by it
  Timeline timeline_;
};

}  // namespace

Timeline simulate(const Plan& plan, const Workload& workload, const Machine& machine,
                  const std::vector<PassRows>& passes, bool keep_intervals) {
  return Simulation(plan, workload, machine, passes).run(keep_intervals);
}

}  // namespace headrace::scheduler
