#include "engine/executor.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "engine/executor_holes.h"
#include "engine/executor_lanes.h"
#include "engine/kv_stream.h"
#include "scheduler/enter.h"

namespace headrace::engine {

namespace {

using scheduler::Round;
using scheduler::Space;
using scheduler::Task;
using scheduler::TaskKind;
using scheduler::TaskRef;

// Tickets held at most by each lane's transfers. The pager has as many as all lanes and what a
// hole fetches together.
constexpr uint64_t kLaneTicketsMax = 1024;
// Experts that are there are computed together until they have so many bytes, a millisecond or two:
// between two groups transfers are started whose slots have come free.
constexpr Bytes kBytesTogether = 64 * kMiB;
constexpr size_t kTogether = 16;
constexpr size_t kGroupsAhead = 4;  // of chunks that came together, in what a stream reads ahead

}  // namespace

struct Executor::Impl {
  explicit Impl(Parts parts);

  // --- the loop
  void enter(std::function<void(Bytes, Bytes)> report);
  void run(models::Activations& a, const models::Pass& pass);
  bool start_transfers();
  bool all_started() const;
  bool start_ready(const Round& r, size_t lane, LaneQueue& q, std::vector<TaskState>& states,
                   int64_t now);
  bool edges_done(const Round& r, const Task& task, std::vector<TaskState>& states, int64_t now);
  bool is_loaded(const Task& task);
  bool entered(uint32_t task);
  bool reap_enter();
  void finish_enter(size_t until);
  bool finished(TaskState& s);
  void settle(TaskState& s);
  bool has_ticket(size_t lane, LaneQueue& q, std::vector<TaskState>& states);
  void start(const Task& task, TaskState& s, int64_t now);
  StallCause cause_of(uint32_t blocked);
  void stall(uint64_t seen, uint32_t blocked);

  // --- compute
  size_t compute(size_t next, models::Activations& a, const models::Pass& pass);
  size_t forward(size_t next, models::Activations& a, const models::Pass& pass);
  void route(const Task& task, models::Activations& a, const models::Pass& pass);
  void embed(const Task& task, models::Activations& a, const models::Pass& pass);
  void experts(const Task& task, models::Activations& a, const models::Pass& pass);
  Bytes add_expert(const Task& task, const Holes::Ready& ready);
  void trace_task(const char* name, uint64_t begin_ns);

  Parts p;
  ExecutorCounters counters;
  Places places;
  Holes holes;
  KvStream kv;
  std::array<LaneQueue, kLanes> transfers, enter_transfers;  // of the steady round, of enter
  std::vector<uint32_t> compute_tasks;
  std::vector<TaskState> state, enter_state;
  scheduler::EnterMatch match;
  std::function<void(Bytes, Bytes)> progress;
  size_t oldest = 0;  // enter's tasks before it are finished, in list order
  Bytes enter_bytes = 0, enter_done = 0;
  std::vector<const std::byte*> addresses;   // room for all that are handed to the decoder
  std::vector<models::ExpertData> together;  // at a time
  std::vector<const char*> names;            // of segments, for the trace
  int64_t round = 0;                         // of the next or running pass
};

Executor::Impl::Impl(Parts parts)
    : p(std::move(parts)), places(p), holes(p, places, counters), kv(p.plan, p.workload, p.kv) {
  const scheduler::Plan& plan = p.plan;
  size_t chunks_max = 64;
  for (const ObjectSpec& object : p.workload.objects) {
    chunks_max = std::max(chunks_max, object.chunks.size());
  }
  addresses.reserve(chunks_max * kTogether);
  together.reserve(kTogether);

  for (uint32_t t = 0; t < plan.steady.tasks.size(); ++t) {
    const Task& task = plan.steady.tasks[t];
    if (!is_transfer(task)) {
      compute_tasks.push_back(t);
      continue;
    }
    transfers[lane_of(task)].tasks.push_back(t);
  }
  for (uint32_t t = 0; t < plan.enter.tasks.size(); ++t) {
    enter_transfers[lane_of(plan.enter.tasks[t])].tasks.push_back(t);
    enter_bytes += plan.enter.tasks[t].bytes;
  }
  match = scheduler::match_enter(plan, p.workload);
  state.resize(plan.steady.tasks.size());
  enter_state.resize(plan.enter.tasks.size());
  for (TaskState& s : enter_state) s.done = s.started = kEnterRound - 1;
  for (const SegmentSpec& segment : p.workload.segments) {
    names.push_back(p.trace ? p.trace->intern(segment.name) : segment.name.c_str());
  }
}

// ---- the loop

bool Executor::Impl::finished(TaskState& s) {
  if (!s.pending) return true;
  if (!p.pager.done(s.ticket)) return false;
  settle(s);
  return true;
}

void Executor::Impl::settle(TaskState& s) {
  s.pending = false;
  p.pager.wait(s.ticket);  // throws what went wrong
  s.done = s.started;
}

// Whether a task of enter is done.
bool Executor::Impl::entered(uint32_t task) {
  if (task < oldest || task == kNone) return true;
  return enter_state[task].started == kEnterRound && finished(enter_state[task]);
}

// Whether the residents that a task reads have been loaded. A hole waits for all its candidates,
// and reads end in any order: so for all up to the last of them.
bool Executor::Impl::is_loaded(const Task& task) {
  if (oldest == enter_state.size()) return true;
  for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) {
    const scheduler::Slot& slot = p.plan.steady.uses[u].slot;
    if (slot.space == Space::kResident && !entered(match.of_resident[slot.index])) return false;
  }
  if (task.from.space == Space::kResident && !entered(match.of_resident[task.from.index])) {
    return false;
  }
  if (task.hole == kNone || match.of_hole[task.hole] == kNone) return true;
  return match.of_hole[task.hole] < oldest;
}

bool Executor::Impl::edges_done(const Round& r, const Task& task, std::vector<TaskState>& states,
                                int64_t now) {
  for (uint32_t i = task.after.begin; i < task.after.end; ++i) {
    const TaskRef& ref = r.after[i];
    if (now == 0 && ref.round == -1) {
      if (!entered(match.of_task[ref.task])) return false;
      continue;
    }
    TaskState& s = states[ref.task];
    if (s.done >= now + ref.round) continue;
    if (!s.pending || s.started < now + ref.round || !finished(s)) return false;
  }
  return now != 0 || is_loaded(task);
}

void Executor::Impl::start(const Task& task, TaskState& s, int64_t now) {
  s.started = now;
  if (moves_kv(task)) {
    const std::optional<swap::Transfer> transfer = kv.transfer(task, now);
    s.pending = transfer.has_value();
    if (!s.pending) s.done = now;
    if (s.pending) s.ticket = p.pager.start(*transfer), ++counters.transfers;
    return;
  }
  swap::Transfer t{.object = task.object,
                   .chunk = task.chunk,
                   .kind = p.workload.objects[task.object].kind,
                   .edge = task.edge,
                   .counted = task.counted};
  t.target = places.at(task.to, now);
  if (task.kind == TaskKind::kCopy) t.source = places.at(task.from, now);
  s.ticket = p.pager.start(t);
  s.pending = true;
  ++counters.transfers;
}

// Whether the lane may hold one more ticket. Those of transfers that are done and that nobody has
// asked for yet are freed first: a stream may run further ahead than there are tickets.
bool Executor::Impl::has_ticket(size_t lane, LaneQueue& q, std::vector<TaskState>& states) {
  const auto held = [&] { return transfers[lane].tickets() + enter_transfers[lane].tickets(); };
  if (held() < kLaneTicketsMax) return true;
  while (q.reaped < q.started && finished(states[q.tasks[q.reaped % q.tasks.size()]])) ++q.reaped;
  return held() < kLaneTicketsMax;
}

// Starts every transfer that heads the lane and whose edges are done.
bool Executor::Impl::start_ready(const Round& r, size_t lane, LaneQueue& q,
                                 std::vector<TaskState>& states, int64_t now) {
  bool any = false;
  while (q.next < q.tasks.size()) {
    const uint32_t t = q.tasks[q.next];
    const Task& task = r.tasks[t];
    if (!has_ticket(lane, q, states)) break;
    if (!finished(states[t]) || !edges_done(r, task, states, now)) break;
    start(task, states[t], now);
    ++q.next, ++q.started;
    any = true;
  }
  return any;
}

// Of every lane: what is left of enter, then this round's.
bool Executor::Impl::start_transfers() {
  bool any = false;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    LaneQueue& first = enter_transfers[lane];
    any |= start_ready(p.plan.enter, lane, first, enter_state, kEnterRound);
    if (first.next < first.tasks.size()) continue;
    any |= start_ready(p.plan.steady, lane, transfers[lane], state, round);
  }
  return any;
}

// Takes note of what enter has loaded since; true: there was something, so that what waited for it
// may start.
bool Executor::Impl::reap_enter() {
  const size_t before = oldest;
  if (before == enter_state.size()) return false;
  while (oldest < enter_state.size() && entered(static_cast<uint32_t>(oldest))) {
    enter_done += p.plan.enter.tasks[oldest++].bytes;
  }
  for (LaneQueue& q : enter_transfers) {
    while (q.reaped < q.started && q.tasks[q.reaped] < oldest) ++q.reaped;
  }
  if (progress) progress(enter_done, enter_bytes);
  return oldest != before;
}

// Waits until the first `until` tasks of enter are done, starting nothing but enter.
void Executor::Impl::finish_enter(size_t until) {
  while (true) {
    const uint64_t seen = p.pager.finished();
    bool moved = false;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      moved |= start_ready(p.plan.enter, lane, enter_transfers[lane], enter_state, kEnterRound);
    }
    moved |= reap_enter();
    if (oldest >= until) return;
    if (!moved) p.pager.wait_change(seen);
  }
}

// Loads what always stays and starts the rest, which goes on during the first pass.
void Executor::Impl::enter(std::function<void(Bytes, Bytes)> report) {
  progress = std::move(report);
  if (enter_state.empty() && progress) progress(0, 0);
  size_t always = 0;
  for (size_t t = 0; t < enter_state.size(); ++t) {
    if (p.workload.objects[p.plan.enter.tasks[t].object].always_resident) always = t + 1;
  }
  finish_enter(always);
}

bool Executor::Impl::all_started() const {
  return oldest == enter_state.size() &&
         std::all_of(transfers.begin(), transfers.end(),
                     [](const LaneQueue& q) { return q.next == q.tasks.size(); });
}

void Executor::Impl::run(models::Activations& a, const models::Pass& asked) {
  models::Pass pass = asked;
  pass.kv_offsets = kv.offsets();
  const Round& r = p.plan.steady;
  for (LaneQueue& q : transfers) q.next = 0;
  kv.begin(pass, round);
  p.decoder.begin(p.context, a, pass);
  size_t next = 0;
  while (true) {
    const uint64_t seen = p.pager.finished();
    bool moved = reap_enter();
    moved |= start_transfers();
    if (next < compute_tasks.size()) {
      const uint32_t t = compute_tasks[next];
      const Task& task = r.tasks[t];
      if (edges_done(r, task, state, round)) {
        const size_t end = next + compute(next, a, pass);
        while (next < end) state[compute_tasks[next++]].done = round;
        moved = true;
      }
      if (!moved) stall(seen, t);
    } else if (all_started()) {
      break;
    } else if (!moved) {
      p.pager.wait_change(seen);
    }
  }
  ++round;
  ++counters.passes;
}

// What `blocked` of the steady round waits for in the end: a transfer under way, or what the first
// of a lane waits for that is not started. Every step leads to an earlier task of the plan's order.
StallCause Executor::Impl::cause_of(uint32_t blocked) {
  for (size_t steps = 0; steps <= kLanes; ++steps) {
    const Task& task = p.plan.steady.tasks[blocked];
    uint32_t next = kNone;
    for (uint32_t i = task.after.begin; next == kNone && i < task.after.end; ++i) {
      const TaskRef& ref = p.plan.steady.after[i];
      if (round == 0 && ref.round == -1) continue;  // enter's, which only loads
      if (state[ref.task].done < round + ref.round) next = ref.task;
    }
    if (is_transfer(task) && state[blocked].pending) next = blocked;  // its run of the round before
    if (next == kNone) break;
    const Task& other = p.plan.steady.tasks[next];
    if (!is_transfer(other)) break;
    if (state[next].pending) return kCauses[lane_of(other)];
    const LaneQueue& q = transfers[lane_of(other)];
    if (q.next == q.tasks.size()) break;
    blocked = q.tasks[q.next];
  }
  return StallCause::kDiskRead;
}

// The compute lane waits for a change: for what `blocked` needs.
void Executor::Impl::stall(uint64_t seen, uint32_t blocked) {
  const StallCause cause = cause_of(blocked);
  const uint64_t begin = steady_clock().now_ns();
  p.pager.wait_change(seen);
  record_stall(p, counters, cause, begin);
}

// ---- compute

void Executor::Impl::trace_task(const char* name, uint64_t begin_ns) {
  if (!p.trace) return;
  p.trace->record({.name = name, .lane = 0, .begin_ns = begin_ns, .end_ns = p.trace->now_ns()});
}

// Computes `next` of the compute lane, which may start, and what may be computed with it; how many
// tasks that was.
size_t Executor::Impl::compute(size_t next, models::Activations& a, const models::Pass& pass) {
  const Task& task = p.plan.steady.tasks[compute_tasks[next]];
  switch (task.kind) {
    case TaskKind::kForward:
      return forward(next, a, pass);
    case TaskKind::kEmbed:
      embed(task, a, pass);
      return 1;
    case TaskKind::kExperts:
      experts(task, a, pass);
      return 1;
    case TaskKind::kRoute:
      route(task, a, pass);
      return 1;
    case TaskKind::kFetch:
    case TaskKind::kCopy:
    case TaskKind::kKvRead:
    case TaskKind::kKvWrite:
      break;
  }
  HEADRACE_ASSERT(false, "a transfer on the compute lane");
}

// Chunks of one object that have come are computed together: one loop over many is up to a tenth
// faster than one each. A stream's slots come free again by such groups, so that a group is a part
// of what the stream reads ahead.
size_t Executor::Impl::forward(size_t next, models::Activations& a, const models::Pass& pass) {
  const uint64_t begin = p.trace ? p.trace->now_ns() : 0;
  const scheduler::Round& r = p.plan.steady;
  const Task& task = r.tasks[compute_tasks[next]];
  const scheduler::Use& first = r.uses[task.uses.begin];
  const auto add = [&](const Task& t) {
    for (uint32_t u = t.uses.begin; u < t.uses.end; ++u) {
      addresses.push_back(places.at(r.uses[u].slot, round));
    }
  };
  const auto goes_on = [&](const Task& t) {
    return t.kind == TaskKind::kForward && t.segment == task.segment &&
           r.uses[t.uses.begin].object == first.object &&
           r.uses[t.uses.begin].chunk == first.chunk + addresses.size() &&
           edges_done(r, t, state, round);
  };
  const size_t most = std::clamp<size_t>(p.plan.prefetch_depth / kGroupsAhead, 1, kTogether);
  addresses.clear();
  add(task);
  size_t count = 1;
  while (addresses.size() < most && next + count < compute_tasks.size() &&
         goes_on(r.tasks[compute_tasks[next + count]])) {
    add(r.tasks[compute_tasks[next + count++]]);
  }
  p.decoder.forward(p.context, a, pass, task.segment, first.object, first.chunk, addresses);
  trace_task(names[task.segment], begin);
  return count;
}

void Executor::Impl::route(const Task& task, models::Activations& a, const models::Pass& pass) {
  const uint64_t begin = p.trace ? p.trace->now_ns() : 0;
  const auto picked = p.decoder.route(p.context, a, pass, task.segment);
  if (p.routes) p.routes(p.workload.segments[task.segment].layer, picked);
  holes.choices().assign(picked.begin(), picked.end());
  trace_task(names[task.segment], begin);
}

void Executor::Impl::embed(const Task& task, models::Activations& a, const models::Pass& pass) {
  const ObjectId object = p.workload.segments[task.segment].candidates[0];
  holes.choices().clear();
  for (int32_t token : pass.tokens) holes.choices().push_back(p.decoder.embedding_chunk(token));
  holes.open(task);
  while (const auto ready = holes.next()) {
    const uint64_t begin = p.trace ? p.trace->now_ns() : 0;
    const auto& [pick, chunks] = *ready;
    const std::byte* data = pick.slot.space == Space::kPool
                                ? places.at(pick.slot, round)
                                : places.resident(object, pick.candidate);
    p.decoder.embed(p.context, a, pass, pick.candidate, data);
    trace_task(names[task.segment], begin);
    start_transfers();
  }
}

void Executor::Impl::experts(const Task& task, models::Activations& a, const models::Pass& pass) {
  holes.open(task);
  while (auto ready = holes.next()) {
    const uint64_t begin = p.trace ? p.trace->now_ns() : 0;
    addresses.clear();
    together.clear();
    Bytes bytes = 0;
    do {
      bytes += add_expert(task, *ready);
      if (together.size() == kTogether || bytes >= kBytesTogether) break;
    } while ((ready = holes.next_there()));
    p.decoder.experts(p.context, a, pass, task.segment, together);
    trace_task(names[task.segment], begin);
    start_transfers();
  }
  p.decoder.combine(p.context, a, pass, task.segment);
}

// Puts it with those that are computed together; its bytes.
Bytes Executor::Impl::add_expert(const Task& task, const Holes::Ready& ready) {
  const auto& [pick, chunks] = ready;
  const ObjectId object = p.workload.segments[task.segment].candidates[pick.candidate];
  const size_t first = addresses.size();
  for (uint32_t c = chunks.begin; c < chunks.end; ++c) {
    addresses.push_back(pick.slot.space == Space::kPool
                            ? places.at(pick.slot, round) + places.chunk_offset(object, c)
                            : places.resident(object, c));
  }
  together.push_back({pick.candidate, std::span(addresses).subspan(first)});
  return p.workload.objects[object].bytes();
}

// ---- face

Executor::Executor(Parts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
Executor::~Executor() = default;

void Executor::enter(std::function<void(Bytes, Bytes)> progress) {
  impl_->enter(std::move(progress));
  for (ObjectId id = 0; id < impl_->p.workload.objects.size(); ++id) {
    if (impl_->p.workload.objects[id].always_resident) {
      impl_->p.decoder.bind_resident(id, impl_->places.resident(id, 0));
    }
  }
}

void Executor::run(models::Activations& activations, const models::Pass& pass) {
  impl_->run(activations, pass);
}

void Executor::drain() {
  impl_->finish_enter(impl_->enter_state.size());
  for (TaskState& s : impl_->state) {
    if (s.pending) impl_->settle(s);
  }
}

const ExecutorCounters& Executor::counters() const { return impl_->counters; }

}  // namespace headrace::engine
