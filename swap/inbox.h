// How tickets come to a thread of the pager.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "swap/lanes.h"

namespace headrace::swap {

// What a thread that takes tickets sleeps on. Lanes are fixed; `waiting` tells a starter whether a
// wake-up is needed at all.
struct Inbox {
  explicit Inbox(uint32_t capacity) : lanes(capacity) {}
  std::mutex mutex;
  std::condition_variable filled;  // the copier's; the owner sleeps in its backend's poll
  Lanes lanes;
  bool waiting = false;
  bool stop = false;
};

}  // namespace headrace::swap
