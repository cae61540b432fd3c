// What happens before what. Tasks of the enter round and of three steady rounds are walked by the
// one rule of order; each gets a clock that says how far every lane is known to be when it starts.
// Then every slot of a ring is looked at: who wrote it, who read it, and whether the clocks put the
// reads between their write and the next. Transfers of a lane start in order and end in any, so
// that what waits for one must name it: a later one of its lane does not stand for it.
//
// Three rounds stand for all: slots advance by the same step every round, a round's transfers start
// after the computations of the round before, and what is read was written in this round or the one
// before (all checked here), so round r + 1 repeats round r from the second on.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "scheduler/enter.h"
#include "scheduler/verify_stages.h"

namespace headrace::scheduler {

namespace {

constexpr int32_t kRounds = 3;
constexpr size_t kLanesUsed = 4;  // compute, disk read and write, host to device: as was checked

size_t lane_of(const Task& task) {
  if (task.lane == Lane::kCompute) return 0;
  if (task.lane == Lane::kDiskWrite) return 3;
  return task.lane == Lane::kDiskRead ? 1 : 2;
}

using Clock = std::array<uint32_t, kLanesUsed>;  // tasks of each lane that are done

struct Touch {  // of a slot of a ring
  uint32_t ring = 0, slot = 0;
  bool writes = false;
  uint32_t position = 0;  // of the task in its lane, over all rounds
  int32_t round = 0;
  uint32_t task = 0;
  ObjectId object = 0;
  uint32_t chunk = 0;
};

class Order {
 public:
  Order(const Plan& plan, const Workload& workload, Violations& out)
      : p_(plan), w_(workload), out_(out), match_(match_enter(plan, workload)) {}

  void run() {
    index(p_.enter, enter_);
    index(p_.steady, steady_);
    check_enter();
    if (!out_.empty()) return;
    walk();
    if (!out_.empty()) return;
    check_rounds();
    collect();
    check_slots();
  }

 private:
  struct Lanes {
    std::array<std::vector<uint32_t>, kLanesUsed> tasks;
    std::vector<uint32_t> place;  // of a task in its lane
  };
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    out_.add(fmt::format(format, std::forward<Args>(args)...));
  }
  static void index(const Round& round, Lanes& lanes);
  const Round& round_of(int32_t r) const { return r < 0 ? p_.enter : p_.steady; }
  const Lanes& lanes_of(int32_t r) const { return r < 0 ? enter_ : steady_; }
  size_t instance(int32_t r, uint32_t task) const {
    return r < 0 ? task
                 : p_.enter.tasks.size() + static_cast<size_t>(r) * p_.steady.tasks.size() + task;
  }
  uint32_t position(int32_t r, uint32_t task) const {
    const size_t lane = lane_of(round_of(r).tasks[task]);
    uint32_t before = 0;
    if (r >= 0) {
      before = static_cast<uint32_t>(enter_.tasks[lane].size() +
                                     static_cast<size_t>(r) * steady_.tasks[lane].size());
    }
    return before + lanes_of(r).place[task];
  }
  void check_enter();
  void walk();
  bool try_task(int32_t r, uint32_t task, const Clock& lane);
  bool names(int32_t r, uint32_t task, int32_t target, uint32_t of) const;
  void check_rounds();
  void collect();
  void touch(const Slot& slot, bool writes, int32_t r, uint32_t task, ObjectId object,
             uint32_t chunk);
  void check_slots();
  void check_slot(size_t begin, size_t end);
  void check_read(const Touch& read, size_t begin, size_t writes, std::vector<uint8_t>& used);
  void check_enter_copies();

  const Plan& p_;
  const Workload& w_;
  Violations& out_;
  const EnterMatch match_;
  Lanes enter_, steady_;
  std::vector<Clock> clocks_;  // by instance
  std::vector<uint8_t> done_;  // by instance
  std::vector<Touch> touches_;
};

void Order::index(const Round& round, Lanes& lanes) {
  lanes.place.resize(round.tasks.size());
  for (uint32_t t = 0; t < round.tasks.size(); ++t) {
    auto& tasks = lanes.tasks[lane_of(round.tasks[t])];
    lanes.place[t] = static_cast<uint32_t>(tasks.size());
    tasks.push_back(t);
  }
}

// An edge to the round before the first steady one has a task of enter that stands for it.
void Order::check_enter() {
  for (const TaskRef& ref : p_.steady.after) {
    if (ref.round != -1 || !is_transfer(p_.steady.tasks[ref.task])) continue;
    if (match_.of_task[ref.task] == kNone) {
      fail("no task of enter stands for steady task {}", ref.task);
    }
  }
}

// Runs the lanes until nothing moves: what is left waits for itself.
void Order::walk() {
  const size_t instances = instance(kRounds, 0);
  clocks_.assign(instances, {});
  done_.assign(instances, 0);
  std::array<std::vector<std::pair<int32_t, uint32_t>>, kLanesUsed> queue;
  for (int32_t r = -1; r < kRounds; ++r) {
    for (size_t lane = 0; lane < kLanesUsed; ++lane) {
      for (uint32_t t : lanes_of(r).tasks[lane]) queue[lane].emplace_back(r, t);
    }
  }
  std::array<size_t, kLanesUsed> next{};
  std::array<Clock, kLanesUsed> lane_clock{};
  bool moved = true;
  while (moved) {
    moved = false;
    for (size_t lane = 0; lane < kLanesUsed; ++lane) {
      for (; next[lane] < queue[lane].size(); ++next[lane]) {
        const auto [r, t] = queue[lane][next[lane]];
        if (!try_task(r, t, lane_clock[lane])) break;
        const size_t i = instance(r, t);
        done_[i] = 1;
        lane_clock[lane] = clocks_[i];
        lane_clock[lane][lane] = static_cast<uint32_t>(next[lane]) + 1;
        moved = true;
      }
    }
  }
  for (size_t lane = 0; lane < kLanesUsed; ++lane) {
    if (next[lane] == queue[lane].size()) continue;
    const auto [r, t] = queue[lane][next[lane]];
    fail("{} task {} waits for ever", r < 0 ? "enter" : "steady", t);
  }
}

// True when the task's edges are done; then its clock at its start is known.
bool Order::try_task(int32_t r, uint32_t t, const Clock& lane) {
  const Round& round = round_of(r);
  const Task& task = round.tasks[t];
  Clock clock = lane;
  const auto join = [&](const Clock& other) {
    for (size_t l = 0; l < kLanesUsed; ++l) clock[l] = std::max(clock[l], other[l]);
  };
  const auto wait_for = [&](int32_t target, uint32_t of) {
    const size_t i = instance(target, of);
    if (!done_[i]) return false;
    join(clocks_[i]);
    const size_t l = lane_of(round_of(target).tasks[of]);
    clock[l] = std::max(clock[l], position(target, of) + 1);
    return true;
  };
  for (uint32_t a = task.after.begin; a < task.after.end; ++a) {
    const TaskRef& ref = round.after[a];
    int32_t target = r + ref.round;
    uint32_t of = ref.task;
    if (r >= 0 && target < 0) of = match_.of_task[ref.task];
    if (of == kNone) continue;  // a computation: enter has none
    if (!wait_for(target, of)) return false;
  }
  if (r == 0) {  // what stays is read once it is loaded, and stays loaded
    for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) {
      const Slot& slot = round.uses[u].slot;
      if (slot.space == Space::kResident && !wait_for(-1, match_.of_resident[slot.index]))
        return false;
    }
    if (task.from.space == Space::kResident && !wait_for(-1, match_.of_resident[task.from.index])) {
      return false;
    }
  }
  clocks_[instance(r, t)] = clock;
  return true;
}

// Whether one of the task's own edges is to task `of` of round `target`.
bool Order::names(int32_t r, uint32_t task, int32_t target, uint32_t of) const {
  const Round& round = round_of(r);
  const Range& after = round.tasks[task].after;
  return std::any_of(
      round.after.begin() + after.begin, round.after.begin() + after.end, [&](const TaskRef& ref) {
        const bool of_enter = r >= 0 && r + ref.round < 0;
        return r + ref.round == target && (of_enter ? match_.of_task[ref.task] : ref.task) == of;
      });
}

// A transfer never runs more than a round ahead of the computations.
void Order::check_rounds() {
  if (steady_.tasks[0].empty()) return;
  const uint32_t last = steady_.tasks[0].back();
  for (uint32_t t = 0; t < p_.steady.tasks.size(); ++t) {
    if (!is_transfer(p_.steady.tasks[t])) continue;
    for (int32_t r = 1; r < kRounds; ++r) {
      if (clocks_[instance(r, t)][0] <= position(r - 1, last)) {
        fail("steady task {} may run a round ahead", t);
        break;
      }
    }
  }
}

void Order::touch(const Slot& slot, bool writes, int32_t r, uint32_t task, ObjectId object,
                  uint32_t chunk) {
  if (slot.space != Space::kRing) return;
  touches_.push_back({slot.area, ring_slot(p_.rings[slot.area], slot, r), writes, position(r, task),
                      r, task, object, chunk});
}

void Order::collect() {
  for (int32_t r = -1; r < kRounds; ++r) {
    const Round& round = round_of(r);
    for (uint32_t t = 0; t < round.tasks.size(); ++t) {
      const Task& task = round.tasks[t];
      if (is_transfer(task)) {
        touch(task.to, true, r, t, task.object, task.chunk);
        touch(task.from, false, r, t, task.object, task.chunk);
        continue;
      }
      for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) {
        const Use& use = round.uses[u];
        touch(use.slot, false, r, t, use.object, use.chunk);
      }
    }
  }
  std::sort(touches_.begin(), touches_.end(), [](const Touch& a, const Touch& b) {
    return std::tuple(a.ring, a.slot, !a.writes, a.position, a.task) <
           std::tuple(b.ring, b.slot, !b.writes, b.position, b.task);
  });
}

void Order::check_slots() {
  for (size_t begin = 0; begin < touches_.size();) {
    size_t end = begin;
    while (end < touches_.size() && touches_[end].ring == touches_[begin].ring &&
           touches_[end].slot == touches_[begin].slot) {
      ++end;
    }
    check_slot(begin, end);
    begin = end;
  }
  check_enter_copies();
}

// Writes of a slot come first, in the order of their lane: a ring is fed by one lane, since its
// tier says which.
void Order::check_slot(size_t begin, size_t end) {
  size_t writes = 0;
  while (begin + writes < end && touches_[begin + writes].writes) ++writes;
  std::vector<uint8_t> used(writes, 0);
  for (size_t i = begin + writes; i < end; ++i) check_read(touches_[i], begin, writes, used);
  for (size_t k = 0; k < writes; ++k) {
    const Touch& w = touches_[begin + k];
    if (used[k] || w.round + 1 >= kRounds) continue;
    fail("{} task {} brings {} chunk {} for nobody", w.round < 0 ? "enter" : "steady", w.task,
         w_.objects[w.object].name, w.chunk);
  }
}

void Order::check_read(const Touch& read, size_t begin, size_t writes, std::vector<uint8_t>& used) {
  const Clock& clock = clocks_[instance(read.round, read.task)];
  const auto first = touches_.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto last = first + static_cast<std::ptrdiff_t>(writes);
  const char* round = read.round < 0 ? "enter" : "steady";
  const std::string& name = w_.objects[read.object].name;
  if (writes == 0) return fail("{} task {} reads an empty slot", round, read.task);
  const size_t lane = lane_of(round_of(first->round).tasks[first->task]);
  const auto after =
      std::partition_point(first, last, [&](const Touch& w) { return w.position < clock[lane]; });
  if (after == first) return fail("{} task {} does not wait for {}", round, read.task, name);
  const auto write = after - 1;
  used[static_cast<size_t>(write - first)] = 1;
  if (write->object != read.object || write->chunk != read.chunk) {
    return fail("{} task {} reads {} chunk {} and finds {} chunk {}", round, read.task, name,
                read.chunk, w_.objects[write->object].name, write->chunk);
  }
  if (write->round < read.round - 1) {
    return fail("{} task {} reads what an earlier round left", round, read.task);
  }
  if (!names(read.round, read.task, write->round, write->task)) {
    return fail("{} task {} does not wait for {} chunk {} itself", round, read.task, name,
                read.chunk);
  }
  if (after == last) return;
  const Clock& next = clocks_[instance(after->round, after->task)];
  const Task& reader = round_of(read.round).tasks[read.task];
  const bool is_done = is_transfer(reader) ? names(after->round, after->task, read.round, read.task)
                                           : next[lane_of(reader)] > read.position;
  if (!is_done) {
    fail("{} task {} may overwrite {} chunk {} while it is read",
         after->round < 0 ? "enter" : "steady", after->task, name, read.chunk);
  }
}

// In the enter round a copy from what stays on the host waits for its loading; later all is there.
void Order::check_enter_copies() {
  for (uint32_t t = 0; t < p_.enter.tasks.size(); ++t) {
    const Task& task = p_.enter.tasks[t];
    if (task.kind != TaskKind::kCopy || task.from.space != Space::kResident) continue;
    if (!names(-1, t, -1, match_.of_resident[task.from.index])) {
      fail("enter task {} copies before it is loaded", t);
    }
  }
}

}  // namespace

void check_order(const Plan& plan, const Workload& workload, Violations& out) {
  Order(plan, workload, out).run();
}

}  // namespace headrace::scheduler
