// How tickets come to a thread of the pager.
#pragma once

#include <atomic>
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

// How far the disk's thread is with what it was asked to read, for who wants to wait until it is
// under way.
class Sent {
 public:
  void ask() { asked_.fetch_add(1, std::memory_order_relaxed); }
  void wait() const {
    const uint64_t asked = asked_.load(std::memory_order_relaxed);
    for (uint64_t sent = sent_.load(); sent < asked; sent = sent_.load()) sent_.wait(sent);
  }
  // The thread's: so many have been taken, and sent where there is room.
  void tell(uint64_t taken) {
    if (sent_.exchange(taken) != taken) sent_.notify_all();
  }

 private:
  std::atomic<uint64_t> asked_{0}, sent_{0};
};

}  // namespace headrace::swap
