// From a workload, a machine and budgets to a plan: every policy is expanded, verified, costed by
// bytes and simulated time, and the fastest fits; ties go to fewer bytes, then to the name.
// Deterministic.
#pragma once

#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Throws Error(kInfeasible) with required_bytes, the smallest `memory` budget for which the same
// call succeeds, and what binds. The plan comes verified, with bound, prediction, why and
// alternatives.
Plan search(const Workload& workload, const Machine& machine, const Budgets& budgets,
            const Choices& choices);

uint64_t workload_hash(const Workload& workload);

}  // namespace headrace::scheduler
