// Workloads, machines and budgets for the planner's tests: made up from a seed, printed on failure.
#pragma once

#include <cstdint>
#include <string>

#include "core/random.h"
#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler::testing {

struct ModelShape {
  uint32_t layers = 2;
  uint32_t experts = 0;  // 0: dense
  uint32_t experts_per_token = 2;
  Bytes layer_bytes = 8 * kMiB;  // of the dense objects of a layer
  Bytes expert_bytes = 1 * kMiB;
  Bytes embedding_bytes = 4 * kMiB;
  Bytes chunk = 1 * kMiB;
  bool tied = false;
  bool twice = false;  // layers share their weights in pairs
};
Workload make_workload(const ModelShape& shape);
Workload random_workload(Random& random);
Machine make_machine();
Machine random_machine(Random& random);

Bytes weights_of(const Workload& workload);
// Of everything but weights, for passes of one row.
Bytes needs_of(const Workload& workload, uint32_t rows = 1);

// Budgets that are often too small; two or three tiers.
Budgets random_budgets(Random& random, const Workload& workload);
Choices random_choices(Random& random);
// A plan of a random workload under random budgets that fit, by the policy that `random` names.
struct Planned {
  Workload workload;
  Machine machine;
  Budgets budgets;
  Choices choices;
  Plan plan;
};
Planned random_plan(Random& random);

// A mixture of experts whose pool has `slots` slots; `resident` experts of each layer stay.
struct Pooled {
  Workload workload;
  Plan plan;
};
Pooled make_pooled(uint32_t layers, uint32_t experts, uint32_t per_token, uint32_t slots,
                   uint32_t resident = 0, Evict evict = Evict::kForecast);

}  // namespace headrace::scheduler::testing
