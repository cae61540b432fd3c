// Lower bounds that hold for every schedule within the budget (notes in docs/design/002-bounds.md).
#pragma once

#include "scheduler/machine.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Least bytes that a steady decode pass moves into the tier that computes, over its slowest edge:
// what a pass must touch less all the memory that could hold it.
Bytes bound_bytes(const Workload& workload, const Budgets& budgets);
// Least seconds: the larger of reading every weight once from memory and those bytes at the disk's
// rate.
double bound_seconds(const Workload& workload, const Machine& machine, Bytes bytes, uint32_t rows);

}  // namespace headrace::scheduler
