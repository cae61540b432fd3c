// What the search chooses from: every policy, number of rows and depth that fits the budgets, with
// a closed-form estimate of its time; and, where nothing fits, what would. Pure.
#pragma once

#include <optional>
#include <vector>

#include "scheduler/machine.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct Load {  // seconds that a pass keeps each part busy
  double disk_s = 0, copy_s = 0, compute_s = 0;
  double kv_s = 0;  // of disk_s, for keys and values
};

struct Candidate {  // small: there are hundreds; decide() says again what it is
  const Policy* policy = nullptr;
  uint32_t rows_max = 1, depth = 0;
  uint32_t shape = 0;  // of those that the search tries
  Room room;
  double estimate_s = 0;  // of the whole run
  Load decode;            // of a pass of decoding
};
Decision decide(const Workload& workload, const Inventory& inventory, const Candidate& candidate);

// Sorted by policy (order of the list), rows and depth. Empty: nothing fits. Throws Error(kUsage)
// for an unknown policy or a depth that the policy cannot have.
std::vector<Candidate> all_candidates(const Workload& workload, const Inventory& inventory,
                                      const Machine& machine, const Budgets& budgets,
                                      const Choices& choices);

// Throws Error(kInfeasible) that names what binds and the least --memory (or --device-memory).
[[noreturn]] void refuse(const Workload& workload, const Inventory& inventory,
                         const Budgets& budgets, const Choices& choices);

// The least `memory` for which `policy` has a plan; nullopt: none, the device tier is too small.
std::optional<Bytes> required_memory(const Workload& workload, const Inventory& inventory,
                                     const Budgets& budgets, const Choices& choices,
                                     const Policy& policy);

// Of the process, besides the weights.
Bytes needs_bytes(const Workload& workload, uint32_t rows_max);
Bytes activation_bytes(const Workload& workload, uint32_t rows_max);

struct Passes {  // of a run: how many, and the rows of a prompt's
  double prefill = 0, decode = 0;
  uint32_t prefill_rows = 1;
};
Passes passes_of(const Workload& workload, uint32_t rows_max);

// What a shallow stream loses, as a factor on the disk's time. Simulated time knows no jitter:
// there one chunk ahead is as good as sixteen. Measured on a disk of 2.8 GB/s with 2 MiB chunks,
// rings of 4, 10, 18 and 34 MiB reached 0.5, 0.83, 0.93 and 0.96 of its rate: about ring / (ring +
// 2 MiB), as if a ring's reads came 0.75 ms late.
double stream_jitter(const Machine& machine, Bytes slot_bytes, uint32_t depth);

}  // namespace headrace::scheduler
