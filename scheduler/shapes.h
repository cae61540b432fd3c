// How much runs at a time and where its keys and values are: what the search decides before it
// looks at weights. More sequences share each pass over the weights but leave them less memory;
// layers whose keys and values stream leave more of it and cost traffic. Pure.
#pragma once

#include <vector>

#include "scheduler/workload.h"

namespace headrace::scheduler {

struct Shape {
  AtATime at;
  uint32_t streamed = 0, slots = 0;  // Needs::kv_streamed, kv_slots
};

// All that the caps allow, those first that keep more in memory and run more at a time. Throws
// Error(kInfeasible) that names the cap and the least that it can be.
std::vector<Shape> shapes_of(const Workload& workload, const Budgets& budgets);

// Makes `workload` that of the shape.
void use(Workload& workload, const Shape& shape);

}  // namespace headrace::scheduler
