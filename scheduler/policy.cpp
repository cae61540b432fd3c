#include "scheduler/policy.h"

#include <array>

#include "scheduler/policy_list.h"

namespace headrace::scheduler {

namespace {

constexpr std::array<Policy, 4> kPolicies = {{
    {"stream", "nothing stays that need not; everything streams through a ring", decide_stream,
     least_stream},
    {"pin", "as much stays as fits, spread evenly; the rest streams ahead of its use", decide_pin,
     least_pin},
    {"lru", "what a least-recently-used cache keeps of a cyclic scan: all or nothing", decide_lru,
     least_lru},
    {"sync", "the residency of pin, without prefetch", decide_sync, least_sync},
}};

}  // namespace

std::span<const Policy> policies() { return kPolicies; }

const Policy* find_policy(std::string_view name) {
  for (const Policy& policy : kPolicies) {
    if (name == policy.name) return &policy;
  }
  return nullptr;
}

}  // namespace headrace::scheduler
