// A plan in virtual time: lanes with rate and latency, the one rule of order of plan.h, no
// randomness.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct Interval {
  uint32_t task = 0;
  int32_t round = 0;
  double begin_s = 0, end_s = 0;
};

struct Stall {
  std::string cause;
  double seconds = 0;
};  // of the compute lane: "disk_read", "copy"

struct Timeline {
  double makespan_s = 0;
  double steady_s = 0;  // of the last steady round: one pass, once settled
  std::array<double, kLanes> busy_s{};
  std::vector<Stall> stalls;
  std::vector<Interval> intervals;  // filled when asked for
  std::vector<ByteRow> bytes;       // over all rounds, holes at expectation
  bool deadlock = false;
  std::string deadlock_tasks;  // the tasks that wait for each other
};

// The enter round and then one steady round per element of `passes`.
Timeline simulate(const Plan& plan, const Workload& workload, const Machine& machine,
                  const std::vector<PassRows>& passes, bool keep_intervals = false);

}  // namespace headrace::scheduler
