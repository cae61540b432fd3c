// What only data decide, brought in: rows of the embedding and routed experts. scheduler/fill.h
// says which slots a pass uses and what it must fetch; here fetches are started as soon as their
// slots are free, and candidates handed out as they are due. Part of the executor: one thread, no
// allocation once warm.
#pragma once

#include <optional>
#include <vector>

#include "engine/executor.h"
#include "scheduler/fill.h"

namespace headrace::engine {

// Where the plan's areas lie in the arenas.
class Places {
 public:
  explicit Places(const Executor::Parts& parts);

  std::byte* at(const scheduler::Slot& slot, int64_t round) const;
  std::byte* resident(ObjectId object, uint32_t chunk) const;
  // Inside a pool's slot.
  Bytes chunk_offset(ObjectId object, uint32_t chunk) const { return offsets_[object][chunk]; }

 private:
  const Executor::Parts& p_;
  std::vector<std::vector<Bytes>> offsets_;            // [object][chunk]
  std::vector<std::vector<uint32_t>> resident_index_;  // [object][chunk]: into residents, or kNone
};

// Adds what the compute lane waited since `begin_ns` to the counters and the trace.
void record_stall(const Executor::Parts& parts, ExecutorCounters& counters, StallCause cause,
                  uint64_t begin_ns);

class Holes {
 public:
  Holes(const Executor::Parts& parts, const Places& places, ExecutorCounters& counters);

  // Candidates of the next open(): distinct or not, in any order.
  std::vector<uint32_t>& choices() { return choices_; }

  struct Ready {  // a candidate whose chunks are all there
    scheduler::Pick pick;
    Range chunks;  // of its object
  };
  // Decides about choices() and starts to fetch. next() hands out one candidate after the other,
  // until nullopt, waiting for each; next_there() hands one out, until nullopt, that need not be
  // waited for. A Ready is valid until the call of next() after it.
  void open(const scheduler::Task& task);
  std::optional<Ready> next();
  std::optional<Ready> next_there();

 private:
  bool is_staged() const;
  bool is_there(size_t pick);
  Ready hand_out();
  void start_fetches();
  void fetch(const scheduler::Pick& pick);
  void fetch_staged(const scheduler::Pool& pool, const swap::Transfer& transfer);
  void await(swap::Ticket ticket, StallCause cause = StallCause::kDiskRead);
  void await_first(size_t count);
  ObjectId object_of(const scheduler::Pick& pick) const;
  Range chunks_of(const scheduler::Pick& pick) const;

  const Executor::Parts& p_;
  const Places& places_;
  ExecutorCounters& counters_;
  std::vector<scheduler::PoolState> pools_;
  scheduler::PoolState none_;  // of holes whose candidates are all resident
  scheduler::Filled filled_;
  std::vector<uint32_t> choices_;
  std::vector<scheduler::Choice> distinct_;

  // The hole under way.
  const scheduler::Hole* hole_ = nullptr;
  const SegmentSpec* segment_ = nullptr;
  uint32_t next_ = 0, started_ = 0;    // picks handed out, and those whose fetches are started
  uint32_t computed_ = 0;              // picks that were computed with
  std::vector<swap::Ticket> tickets_;  // of the fetches, in pick order
  size_t awaited_ = 0;                 // how many of those are free again
  size_t wanted_ = 0;                  // how many the picks so far need
};

}  // namespace headrace::engine
