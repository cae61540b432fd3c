// Keys and values that do not stay in memory. A pass goes through the layers in order, pass after
// pass, so what is best for weights is best for them: some layers' keys and values stay, spread
// over the pass, and those of the others go through a ring whose slots hold all blocks of one
// layer. A slot is filled with what the pass attends to before the layer computes, the layer
// appends to it in place, and the blocks that it touched are written back.
//
// What a pass moves follows from its positions alone: the executor and the replay of a run ask the
// same KvMoves. Pure; docs/design/006-kv.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

// Segments that append keys and values, one a layer, in the order of a pass.
std::vector<SegmentId> kv_segments(const Workload& workload);

// Memory of all blocks: of the layers that stay and of the ring.
Bytes kv_memory(const Needs& needs);
Bytes kv_scratch(const Needs& needs);  // on disk
// Of the process, to keep account of what streams: a checksum a block and layer, runs, pieces.
Bytes kv_account(const Needs& needs);

// Which of `layers` stream when `streamed` of them do: spread evenly, the first as late as can be.
std::vector<uint32_t> spread_layers(uint32_t layers, uint32_t streamed);

// Adds to a plan that expand() made what `workload.needs` says of streaming keys and values.
void stream_kv(Plan& plan, const Workload& workload);

// Places of keys and values in memory, in slots of kv_blocks blocks of one layer each: first the
// layers that stay, then the ring.
uint32_t kv_place(const KvStream& kv, uint32_t layer, int64_t round);
uint32_t kv_places(const KvStream& kv);

// Layers that stream and whose rows see equally far back: a pass moves the same blocks of each.
struct KvGroup {
  uint32_t window = 0;            // tokens, the row's own included; 0: all before it
  std::vector<uint32_t> members;  // into Plan::kv.streamed, ascending
};
std::vector<KvGroup> kv_groups(const Plan& plan, const Workload& workload);

// The blocks that one pass moves of every layer of a group, by number.
class KvMoves {
 public:
  KvMoves() = default;
  explicit KvMoves(uint32_t blocks, uint32_t window = 0);  // allocates; nothing below does

  void clear();
  // Rows at tokens [first, end) of a sequence whose i-th block is block_of(i): what came before
  // them is read as far as the first of them sees, and the blocks that they lie in are written.
  template <typename BlockOf>
  void add_rows(uint64_t first, uint64_t end, uint32_t block_tokens, const BlockOf& block_of) {
    const uint64_t seen = window_ != 0 && first >= window_ ? first + 1 - window_ : 0;
    for (uint64_t i = seen / block_tokens; i * block_tokens < first; ++i) mark(block_of(i), kRead);
    for (uint64_t i = first / block_tokens; i * block_tokens < end; ++i) {
      mark(block_of(i), kWritten);
    }
  }
  void close();  // makes the runs

  const std::vector<Range>& reads() const { return reads_; }  // runs of neighbours, ascending
  const std::vector<Range>& writes() const { return writes_; }
  uint64_t read_blocks() const { return read_blocks_; }
  uint64_t written_blocks() const { return written_blocks_; }

 private:
  static constexpr uint8_t kRead = 1, kWritten = 2;
  void mark(uint32_t block, uint8_t how);

  uint32_t window_ = 0;
  std::vector<uint8_t> marks_;  // by block
  std::vector<Range> reads_, writes_;
  uint64_t read_blocks_ = 0, written_blocks_ = 0;
};

struct KvBytes {
  Bytes read = 0, written = 0;
  Bytes total() const { return read + written; }
};
// Of a pass over sequences that share nothing, `rows.context` being the tokens of each at its end.
KvBytes kv_expected(const Plan& plan, const Workload& workload, const PassRows& rows);
// The part of the `index`-th layer that streams.
KvBytes kv_expected_of(const Plan& plan, const Workload& workload, const PassRows& rows,
                       uint32_t index);
// Of a pass of decoding with so many rows, whatever their positions.
KvBytes kv_least(const Plan& plan, uint32_t rows);
KvBytes kv_most(const Plan& plan, const Workload& workload, uint32_t rows);
// The fewest that rows attend to of all layers, those that stay included, at the middle of
// decoding.
Bytes kv_attended(const Workload& workload);

}  // namespace headrace::scheduler
