// Every invariant of a plan, checked after every pass that makes or changes one and before a parsed
// plan is run: each use is resident and there in time, no slot is overwritten before its last
// reader, arenas are never exceeded, the steady round leaves what it found, each segment walks all
// its chunks in order, no cycle of waits, memory sums to the budget.
#pragma once

#include <string>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

std::vector<std::string> violations(const Plan& plan, const Workload& workload);  // empty: valid
void verify(const Plan& plan,
            const Workload& workload);  // throws Error(kFormat) with the first few

}  // namespace headrace::scheduler
