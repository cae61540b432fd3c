// Seconds of each task of a plan on a machine: what the simulator puts on its lanes.
#pragma once

#include <array>
#include <map>
#include <vector>

#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/simulate.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Seconds of products whose operands come from memory while they are multiplied. Near the balance
// of the two neither hides the other wholly: over 1 to 512 rows (`bench kernels`) their cubes add.
double overlapped(double read_s, double multiply_s);

// Seconds of a compute task once its bytes are there: reading its weights and computing on them
// overlap; attention comes after.
struct ComputeCost {
  double weight_s = 0;           // once a pass, however many rows
  double row_s = 0;              // flops of the task's share, per row
  double attention_flops_s = 0;  // per row and token of context; on a segment's last task
  double attention_read_s = 0;   // the same, keys and values from memory
  double expert_s = 0;           // weights of one expert, at their mean size
  double experts = 0, choices = 0;
  bool per_output = false;  // counts rows whose logits are wanted
  uint32_t hole = kNone;    // with a pool: a demand read precedes

  double seconds(const PassRows& pass) const;
};

// One round, ready to be walked.
struct CostTable {
  const Round* round = nullptr;
  std::vector<double> transfer_s;                   // by task
  std::vector<ComputeCost> compute;                 // by task
  std::array<std::vector<uint32_t>, kLanes> lanes;  // tasks, in order
};

// Keeps references to its three arguments. Throws Error(kUsage) when the machine lacks a figure
// that a task needs.
class Costs {
 public:
  Costs(const Plan& plan, const Workload& workload, const Machine& machine);

  CostTable table(const Round& round) const;

  // What a hole's picks that are not there cost. How many they are is chance: each pick is missed
  // with the same chance, whatever becomes of the others.
  struct Demand {
    Bytes bytes = 0;    // expected
    double read_s = 0;  // of the disk, expected
    double copy_s = 0;  // of the copy to a pool on a device, expected
    double late_s = 0;  // of what is asked for together: before the bytes come at the disk's rate
    double each_s = 0;  // of a pick that is missed: its bytes at that rate
    std::vector<double> chances;  // that none, one, two, … of the picks are missed

    // What the task takes longer than the `compute_s` for all its picks, expected, where the disk
    // is free after `behind_s`. What is there is computed with meanwhile, what comes as it comes.
    double wait_s(double behind_s, double compute_s) const;
  };
  const Demand& demand(uint32_t hole, const PassRows& pass);
  // Of a kKvRead or kKvWrite: its layer's keys and values, at expectation.
  double move_kv(const Task& task, const PassRows& rows) const;

 private:
  double through(Edge edge, double bytes) const;
  void add_times(const Hole& hole, double picks, Demand& demand) const;
  double transfer(const Task& task) const;
  ComputeCost compute(const Round& round, const Task& task, uint32_t tasks, bool is_last) const;
  double expert_cost(const SegmentSpec& segment, const Hole& hole, ComputeCost& cost) const;
  double read(double bytes) const;
  double product(double flops) const;

  const Plan& plan_;
  const Workload& workload_;
  const Machine& machine_;
  double flops_ = 0;
  const char* flops_name_ = "";
  std::vector<double> segment_bytes_;
  std::map<std::array<uint32_t, 3>, Demand> demands_;  // by hole, rows, outputs
};

}  // namespace headrace::scheduler
