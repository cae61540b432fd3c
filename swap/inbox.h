// How tickets come to a thread of the pager.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "swap/lanes.h"

namespace headrace::swap {

// What a thread that takes tickets sleeps on. Lanes are fixed; `wakes` tells a starter whether a
// wake-up is needed at all: each costs both threads microseconds.
struct Inbox {
  enum class Wakes : uint8_t { kNothing, kDemand, kAll };

  explicit Inbox(uint32_t capacity) : lanes(capacity) {}
  std::mutex mutex;
  std::condition_variable filled;  // the copier's; the owner sleeps in its backend's poll
  Lanes lanes;
  Wakes wakes = Wakes::kNothing;
  bool stop = false;
};

}  // namespace headrace::swap
