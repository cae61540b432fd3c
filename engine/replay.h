// Keeps account of what data decided: replays every decision of a run through the same pure
// function as the executor, beside the executor's own, for the bytes that the plan predicts. One
// thread.
#pragma once

#include <array>
#include <span>
#include <utility>
#include <vector>

#include "engine/usage.h"
#include "scheduler/fill.h"

namespace headrace::engine {

struct ExpertCounts {  // picks of experts, each once a pass and layer
  uint64_t hits = 0, misses = 0;
  double hit_rate() const {
    const uint64_t all = hits + misses;
    return all == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(all);
  }
};

class Replay {
 public:
  // `usage`: what earlier runs picked.
  Replay(const scheduler::Plan& plan, const scheduler::Workload& workload, Usage usage);

  // Of each pool, as the run begins: for the executor.
  std::vector<scheduler::PoolState> pools() const { return pools_; }

  void decide(uint32_t hole, std::span<const scheduler::Choice> choices);
  // `decodes`: every row is another request's next token; only such passes tell of later runs.
  void end_pass(const scheduler::PassRows& pass, bool decodes);

  std::span<const scheduler::ByteRow> rows() const { return rows_; }  // per pool
  Bytes bytes() const;
  Bytes bytes(uint32_t hole) const { return by_hole_[hole]; }
  scheduler::HoleBytes range() const;  // least and most that could have been
  const ExpertCounts& experts() const { return experts_; }
  Bytes held(uint32_t pool) const;  // slots that are filled
  Usage usage() const;              // of earlier runs and this one

 private:
  struct Passes {  // with the same number of rows
    uint32_t rows = 0;
    uint64_t count = 0, picked = 0, pooled = 0, missed = 0;
  };
  void note_pass(uint32_t rows, bool decodes);

  const scheduler::Plan& plan_;
  const scheduler::Workload& workload_;
  Usage usage_;
  std::vector<uint32_t> layer_of_;  // [hole]: into usage_.layers; kNone
  std::vector<scheduler::PoolState> pools_;
  scheduler::PoolState none_;
  scheduler::Filled filled_;
  std::vector<scheduler::ByteRow> rows_;
  std::vector<Bytes> by_hole_;
  ExpertCounts experts_;
  // How many passes had the same rows: what these could read takes allocations to work out.
  std::array<std::pair<scheduler::PassRows, uint64_t>, 64> passes_{};
  size_t passes_count_ = 0;
  scheduler::HoleBytes range_;  // of passes that are no longer in passes_
  uint64_t experts_all_ = 0;
  Passes pass_;                     // under way
  std::array<Passes, 32> kinds_{};  // the first so many kinds
  bool begun_ = false;              // the first pass, which finds the pools empty, is over
};

}  // namespace headrace::engine
