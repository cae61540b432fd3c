// The pager's table of transfers: who starts one takes a ticket, who finishes it says so, who waits
// for it gives it back. Taken once, of fixed size. Any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "swap/pager.h"
#include "swap/reader.h"

namespace headrace::swap {

class Tickets {
 public:
  enum class State : uint8_t { kFree, kPending, kDone };
  struct Slot {
    std::atomic<State> state{State::kFree};
    Transfer transfer;
    Extent extent;
    ChunkResult result;  // written by the thread that finishes it, before `state` says so
    bool awaited = false;
  };

  explicit Tickets(uint32_t count) : slots_(count) {
    HEADRACE_ASSERT(count > 0);
    for (uint32_t i = count; i > 0; --i) free_.push_back(i - 1);
  }

  uint32_t size() const { return static_cast<uint32_t>(slots_.size()); }
  Slot& operator[](Ticket ticket) {
    HEADRACE_ASSERT(ticket < slots_.size());
    return slots_[ticket];
  }
  const Slot& operator[](Ticket ticket) const {
    HEADRACE_ASSERT(ticket < slots_.size());
    return slots_[ticket];
  }

  Ticket take() {
    const std::lock_guard lock(free_mutex_);
    HEADRACE_ASSERT(!free_.empty(), "more transfers under way than tickets_max");
    const Ticket ticket = free_.back();
    free_.pop_back();
    return ticket;
  }

  void give_back(Ticket ticket) {
    slots_[ticket].state.store(State::kFree, std::memory_order_release);
    const std::lock_guard lock(free_mutex_);
    free_.push_back(ticket);
  }

  bool done(Ticket ticket) const {
    return (*this)[ticket].state.load(std::memory_order_acquire) == State::kDone;
  }

  void wait(Ticket ticket) {
    if (done(ticket)) return;
    std::unique_lock lock(mutex_);
    slots_[ticket].awaited = true;
    changed_.wait(lock, [&] { return done(ticket); });
    slots_[ticket].awaited = false;
  }

  // Wakes only whom it concerns: a wake-up costs as much as submitting a read.
  void finish(Slot& slot) {
    bool wakes = false;
    {
      const std::lock_guard lock(mutex_);
      slot.state.store(State::kDone, std::memory_order_release);
      ++finished_;
      wakes = slot.awaited || watchers_ > 0;
    }
    if (wakes) changed_.notify_all();  // after the lock: who wakes need not wait for it
  }

  uint64_t finished() const {
    const std::lock_guard lock(mutex_);
    return finished_;
  }
  uint64_t wait_change(uint64_t seen) {
    std::unique_lock lock(mutex_);
    ++watchers_;
    changed_.wait(lock, [&] { return finished_ != seen; });
    --watchers_;
    return finished_;
  }

 private:
  std::vector<Slot> slots_;
  std::mutex free_mutex_;
  std::vector<Ticket> free_;
  mutable std::mutex
      mutex_;  // guards what follows, and of every slot the way to kDone and who waits
  std::condition_variable changed_;
  uint64_t finished_ = 0;
  uint32_t watchers_ = 0;  // that wait for any to finish
};

}  // namespace headrace::swap
