// Keys and values in memory and on disk: where each layer's are in a pass, and which blocks its
// transfers move. What moves is scheduler/kv.h's to say; here it meets addresses and the pager.
// Part of the executor: one thread, no allocation after construction.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"
#include "scheduler/kv.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"
#include "swap/pager.h"

namespace headrace::engine {

// Marks in `moves` what `pass` reads and writes of every layer of a group; blocks are numbered from
// `memory`, which is the address of the first.
void mark_kv(const models::Pass& pass, const std::byte* memory, Bytes block_bytes,
             scheduler::KvMoves& moves);

// Where the plan keeps on disk what does not stay; null: everything stays. Throws kInfeasible where
// the disk, or what the user gives of it, is too small.
std::unique_ptr<swap::Scratch> make_scratch(const scheduler::Plan& plan,
                                            const scheduler::Budgets& budgets,
                                            const std::string& folder);

class KvStream {
 public:
  KvStream(const scheduler::Plan& plan, const scheduler::Workload& workload, std::byte* memory);

  // What the transfers of steady round `round` move follows from its pass.
  void begin(const models::Pass& pass, int64_t round);
  std::span<const Bytes> offsets() const { return offsets_; }  // Pass::kv_offsets of that round
  // The transfer of a kKvRead or kKvWrite task; nullopt: there is nothing to move. Its runs stay
  // until the round after the next begins.
  std::optional<swap::Transfer> transfer(const scheduler::Task& task, int64_t round) const;

 private:
  struct Runs {
    std::vector<swap::BlockRun> reads, writes;
  };
  struct Group {  // of layers that move the same blocks
    scheduler::KvMoves moves;
    std::array<Runs, 2> runs;  // by round: writes go on in the round after theirs
  };
  Bytes place_bytes() const { return plan_.kv_blocks * plan_.kv.block_bytes; }

  const scheduler::Plan& plan_;
  std::byte* memory_;
  std::vector<uint32_t> layers_;  // the model's number of each layer with keys and values
  std::vector<Bytes> offsets_;    // by the model's layer
  std::vector<Group> groups_;
  std::vector<uint32_t> group_of_;  // of each layer that streams
};

}  // namespace headrace::engine
