// Lower bounds that hold for every schedule within the budget (notes in docs/design/002-bounds.md).
#pragma once

#include "scheduler/machine.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Least bytes that a steady decode pass moves into the tier that computes, over its slowest edge:
// what a pass must touch less all the memory that could hold it.
Bytes bound_bytes(const Workload& workload, const Budgets& budgets);
// Least seconds: the largest of reading every weight of a pass once from memory, those bytes at the
// disk's rate, and the products of `rows` rows. A figure that the machine lacks bounds nothing.
double bound_seconds(const Workload& workload, const Machine& machine, Bytes bytes, uint32_t rows);

// A training step on one device with whole, equal layers: bytes (in any unit) of one layer's
// weights, gradients and optimizer state and of one micro-batch's boundary activation.
struct GroupedShape {
  uint32_t layers = 2;
  uint32_t micro_batches = 1;
  uint32_t group = 1;  // micro-batches that go through a layer before the next layer
  double weights = 0, gradients = 0, optimizer = 0, activation = 0;
  double capacity = 0;
  bool host_update = false;  // gradients leave, the host updates, the device reads new weights
};
// Least bytes, in and out, of a steady step of any order with that group size (without packs).
double grouped_bound(const GroupedShape& shape);

}  // namespace headrace::scheduler
