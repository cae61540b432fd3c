// Turns "move these runs of blocks" into single reads and writes for a Reader and their results
// into one verdict a ticket: what the pager's owner does for scratch. Checksums are made before a
// run is written and checked when it has been read; what differs is read once more. One thread;
// memory is taken at construction only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swap/pager.h"
#include "swap/reader.h"
#include "swap/scratch.h"

namespace headrace::swap {

inline bool is_scratch(const Transfer& transfer) { return !transfer.blocks.empty(); }
inline bool is_scratch_write(const Transfer& transfer) {
  return is_scratch(transfer) && transfer.edge.to == Tier::kDisk;
}

class ScratchMover {
 public:
  // Pieces are read as file `file` of the reader's backend, with ids from `first_id` on.
  ScratchMover(Scratch& scratch, uint32_t file, uint32_t first_id, uint32_t tickets_max);

  static constexpr uint32_t kPieces = 512;  // ids that it takes

  void add(Ticket ticket, const Transfer& transfer);
  void feed(Reader& reader);  // hands over what ids are free for, in the order of add()
  bool owns(uint32_t id) const { return id >= first_id_; }
  // A result of one of its pieces. True when that was the ticket's last: then `out` is its verdict.
  bool finish(const ChunkResult& result, Reader& reader, ChunkResult& out);
  // Appends the verdict of what has nothing with the reader; the rest takes nothing new.
  void drop_queued(std::vector<ChunkResult>& out);
  uint64_t checksum_cpu_ns() const { return cpu_ns_; }

  // From any thread.
  Bytes bytes_of(const Transfer& transfer) const;
  [[noreturn]] void throw_fault(const ChunkResult& result, const Transfer& transfer) const;

 private:
  struct Move {
    Transfer what;
    ChunkResult result;
    size_t run = 0;      // the next piece begins here
    uint32_t block = 0;  // in that run
    uint32_t outstanding = 0;
  };
  struct Piece {
    Ticket ticket = 0;
    uint32_t first = 0, count = 0;  // blocks
    bool second = false;            // being read again
  };
  void hand(Reader& reader, uint32_t piece);
  std::span<std::byte> memory_of(const Piece& piece) const;
  bool over(const Move& move) const {
    return move.outstanding == 0 &&
           (move.run == move.what.blocks.size() || move.result.fault != ReadFault::kNone);
  }

  Scratch& scratch_;
  uint32_t file_, first_id_, piece_blocks_;
  std::vector<Move> moves_;      // by ticket
  std::vector<uint32_t> queue_;  // tickets that have pieces left, a ring
  size_t head_ = 0, queued_ = 0;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> free_;
  uint64_t cpu_ns_ = 0;
};

}  // namespace headrace::swap
