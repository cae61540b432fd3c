#include "scheduler/first_need.h"

#include <algorithm>
#include <optional>

namespace headrace::scheduler {

namespace {

// Where a transfer's target begins; none where it is not in the tier's arena or data decide.
std::optional<Bytes> target_of(const Plan& plan, const Task& task, Tier tier) {
  if (task.to.space == Space::kResident) {
    const Resident& resident = plan.residents[task.to.index];
    if (resident.tier == tier) return resident.offset;
  }
  if (task.to.space == Space::kRing) {
    const Ring& ring = plan.rings[task.to.area];
    if (ring.tier == tier) return ring.offset + ring_slot(ring, task.to, 0) * ring.slot_bytes;
  }
  return std::nullopt;
}

class Pages {
 public:
  explicit Pages(Bytes bytes) : seen_((bytes + kHugePage - 1) / kHugePage) {}

  void need(Bytes offset, Bytes bytes) {
    const size_t end = std::min((offset + bytes + kHugePage - 1) / kHugePage, seen_.size());
    for (size_t page = offset / kHugePage; page < end; ++page) {
      if (seen_[page]) continue;
      seen_[page] = true;
      add(page * kHugePage);
    }
  }
  std::vector<ArenaRange>& ranges() { return ranges_; }

 private:
  void add(Bytes at) {
    if (!ranges_.empty() && ranges_.back().offset + ranges_.back().bytes == at) {
      ranges_.back().bytes += kHugePage;
    } else {
      ranges_.push_back({at, kHugePage});
    }
  }

  std::vector<bool> seen_;
  std::vector<ArenaRange> ranges_;
};

}  // namespace

std::vector<ArenaRange> first_needed(const Plan& plan, Tier tier) {
  const Bytes bytes = plan.arena_bytes[tier == Tier::kDevice ? 0 : 1];
  Pages pages(bytes);
  for (const Round* round : {&plan.enter, &plan.steady}) {
    for (const Task& task : round->tasks) {
      const std::optional<Bytes> at = target_of(plan, task, tier);
      if (at) pages.need(*at, task.bytes);
    }
  }
  pages.need(0, bytes);
  return std::move(pages.ranges());
}

}  // namespace headrace::scheduler
