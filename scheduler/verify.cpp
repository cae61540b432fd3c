#include "scheduler/verify.h"

#include <fmt/format.h>

#include "core/error.h"
#include "scheduler/verify_stages.h"

namespace headrace::scheduler {

std::vector<std::string> violations(const Plan& plan, const Workload& workload) {
  Violations out;
  check_items(plan, workload, out);
  if (out.empty()) check_kv(plan, workload, out);
  if (out.empty()) check_order(plan, workload, out);
  return out.take();
}

void verify(const Plan& plan, const Workload& workload) {
  const std::vector<std::string> found = violations(plan, workload);
  if (found.empty()) return;
  constexpr size_t kNamed = 3;
  std::string list;
  for (size_t i = 0; i < found.size() && i < kNamed; ++i) list += (i ? "; " : "") + found[i];
  throw Error(ErrorCode::kFormat,
              fmt::format("plan {}: it is not valid: {}; plan again", plan.policy, list));
}

}  // namespace headrace::scheduler
