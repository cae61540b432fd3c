// The functions behind the list of policies, one pair per policy_*.cpp. Read by policy.cpp alone;
// everybody else goes through policies().
#pragma once

#include <optional>

#include "scheduler/policy.h"

namespace headrace::scheduler {

std::optional<Decision> decide_stream(const Workload&, const Inventory&, const Room&,
                                      const Choices&);
std::optional<Decision> decide_pin(const Workload&, const Inventory&, const Room&, const Choices&);
std::optional<Decision> decide_lru(const Workload&, const Inventory&, const Room&, const Choices&);
std::optional<Decision> decide_sync(const Workload&, const Inventory&, const Room&, const Choices&);

Room least_stream(const Inventory&, const Choices&, bool has_device);
Room least_pin(const Inventory&, const Choices&, bool has_device);
Room least_lru(const Inventory&, const Choices&, bool has_device);
Room least_sync(const Inventory&, const Choices&, bool has_device);

}  // namespace headrace::scheduler
