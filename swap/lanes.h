// Two first-in-first-out lanes of numbers, demand and prefetch, in memory that is taken once. The
// device below is one queue without priorities, so the order is made here, before requests leave.
//
// Demand goes first. Where prefetch waits too, it gets one turn after kDemandStreak of demand's, so
// that a steady stream of demand cannot starve it. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "swap/pager.h"

namespace headrace::swap {

inline constexpr uint32_t kDemandStreak = 16;

class Lanes {
 public:
  explicit Lanes(uint32_t capacity) {  // of each lane
    for (Ring& ring : rings_) ring.items.resize(capacity);
  }

  bool empty() const { return rings_[0].count == 0 && rings_[1].count == 0; }
  uint32_t size() const { return rings_[0].count + rings_[1].count; }

  void push(Priority lane, uint32_t item) {
    Ring& ring = of(lane);
    HEADRACE_ASSERT(ring.count < ring.items.size());
    ring.items[(ring.first + ring.count) % ring.items.size()] = item;
    ++ring.count;
  }

  // The lane whose turn it is; only where one of them holds something.
  Priority turn() const {
    if (rings_[0].count == 0) return Priority::kPrefetch;
    if (rings_[1].count == 0 || streak_ < kDemandStreak) return Priority::kDemand;
    return Priority::kPrefetch;
  }

  bool empty(Priority lane) const { return rings_[static_cast<size_t>(lane)].count == 0; }
  uint32_t front(Priority lane) const {
    const Ring& ring = rings_[static_cast<size_t>(lane)];
    HEADRACE_ASSERT(ring.count > 0);
    return ring.items[ring.first];
  }

  // A piece of the front's work was served; the front stays until it is popped.
  void served(Priority lane) {
    const bool prefetch_waits = rings_[1].count > 0;
    streak_ = lane == Priority::kDemand && prefetch_waits ? streak_ + 1 : 0;
  }

  void pop(Priority lane) {
    Ring& ring = of(lane);
    HEADRACE_ASSERT(ring.count > 0);
    ring.first = (ring.first + 1) % static_cast<uint32_t>(ring.items.size());
    --ring.count;
  }

 private:
  struct Ring {
    std::vector<uint32_t> items;
    uint32_t first = 0;
    uint32_t count = 0;
  };
  Ring& of(Priority lane) { return rings_[static_cast<size_t>(lane)]; }

  std::array<Ring, 2> rings_;  // by Priority
  uint32_t streak_ = 0;        // turns that demand took while prefetch waited
};

}  // namespace headrace::swap
