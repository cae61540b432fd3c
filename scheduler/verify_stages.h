// The stages of verify(): first everything that can be told of each item alone, so that the others
// may follow any index; then what streams keys and values; then what happens before what, over the
// enter round and the first steady ones.
#pragma once

#include <string>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

class Violations {  // keeps the first few, counts all
 public:
  void add(std::string message) {
    constexpr size_t kKept = 32;
    ++count_;
    if (messages_.size() < kKept) messages_.push_back(std::move(message));
  }
  bool empty() const { return count_ == 0; }
  std::vector<std::string> take() { return std::move(messages_); }

 private:
  size_t count_ = 0;
  std::vector<std::string> messages_;
};

void check_items(const Plan& plan, const Workload& workload, Violations& out);
void check_kv(const Plan& plan, const Workload& workload, Violations& out);
void check_order(const Plan& plan, const Workload& workload, Violations& out);

inline Tier computing_tier_of(const Plan& plan) {
  return plan.arena_bytes[0] > 0 ? Tier::kDevice : Tier::kHost;
}
inline bool is_transfer(const Task& task) {
  return task.kind == TaskKind::kFetch || task.kind == TaskKind::kCopy;
}
inline bool moves_kv(const Task& task) {
  return task.kind == TaskKind::kKvRead || task.kind == TaskKind::kKvWrite;
}

}  // namespace headrace::scheduler
