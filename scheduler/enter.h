// How the first pass leans on the enter round: what of it stands for what a steady round expects
// of the round before, and what loads each resident. Read by executor, simulator and verifier.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct EnterMatch {  // tasks of the enter round, or kNone
  std::vector<uint32_t>
      of_task;  // by steady task: what stands for it in the round before the first
  std::vector<uint32_t> of_resident;  // by resident: the one that loads it
  std::vector<uint32_t> of_hole;      // by hole: the last to load one of its candidates
};
EnterMatch match_enter(const Plan& plan, const Workload& workload);

}  // namespace headrace::scheduler
