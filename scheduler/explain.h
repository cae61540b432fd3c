// A plan in words and numbers, for people and for `--json`'s `why`.
#pragma once

#include <string>

#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Several lines: what is resident and why, what streams, memory split, bytes beside the bound, what
// binds, what 1 GiB more would buy, the plans that lost.
std::string explain(const Plan& plan, const Workload& workload, const Machine& machine,
                    const Budgets& budgets);

}  // namespace headrace::scheduler
