// How far the tasks and lanes of a plan have come, as the executor keeps it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/executor.h"
#include "scheduler/plan.h"
#include "swap/pager.h"

namespace headrace::engine {

inline constexpr int64_t kEnterRound = -1;

inline bool moves_kv(const scheduler::Task& task) {
  return task.kind == scheduler::TaskKind::kKvRead || task.kind == scheduler::TaskKind::kKvWrite;
}
inline bool is_transfer(const scheduler::Task& task) {
  return task.kind == scheduler::TaskKind::kFetch || task.kind == scheduler::TaskKind::kCopy ||
         moves_kv(task);
}

// How far one task has come. A transfer of round r is started in round r and consumed in round r or
// r + 1, before it is started again: one state per task is enough.
struct TaskState {
  int64_t done = kEnterRound;  // last round in which it finished
  int64_t started = kEnterRound;
  bool pending = false;
  swap::Ticket ticket = 0;
};

struct LaneQueue {
  std::vector<uint32_t> tasks;       // indices into the round, in lane order
  size_t next = 0;                   // of this round
  uint64_t started = 0, reaped = 0;  // over all rounds: those before `reaped` hold no ticket
  uint64_t tickets() const { return started - reaped; }
};

inline constexpr size_t kLanes = 3;  // disk read, host to device, disk write
inline constexpr StallCause kCauses[kLanes] = {StallCause::kDiskRead, StallCause::kCopy,
                                               StallCause::kDiskWrite};
inline size_t lane_of(const scheduler::Task& task) {
  if (task.lane == scheduler::Lane::kDiskWrite) return 2;
  return task.lane == scheduler::Lane::kDiskRead ? 0 : 1;
}

}  // namespace headrace::engine
