// In which order a run comes to need its memory: targets of the enter round's transfers first, then
// those of the first pass, then the rest. Pure; for whoever makes the memory ready ahead of them.
#pragma once

#include <vector>

#include "core/tier.h"
#include "scheduler/plan.h"

namespace headrace::scheduler {

struct ArenaRange {
  Bytes offset = 0, bytes = 0;
  bool operator==(const ArenaRange&) const = default;
};

// Of the tier's arena, in whole huge pages, each page once and all of them.
std::vector<ArenaRange> first_needed(const Plan& plan, Tier tier);

}  // namespace headrace::scheduler
