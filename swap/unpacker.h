// Reads from a store that unpacks: tickets wait for a place in the pager's own room, are read into
// it, and their chunks are made from there. Also remembers what each chunk's bytes hashed to when
// they were first read, so that a file that changes under a run is an error and not other results.
//
// Belongs to the pager's owner thread; takes memory at construction only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "swap/in_place.h"
#include "swap/lanes.h"
#include "swap/reader.h"
#include "swap/store.h"

namespace headrace::swap {

class Unpacker {
 public:
  // `room` holds at least one chunk's reads.
  Unpacker(const Store& store, std::span<std::byte> room, uint32_t tickets_max);

  void wait(Priority lane, uint32_t ticket) { waiting_.push(lane, ticket); }
  bool has_waiting() const { return !waiting_.empty(); }
  bool has_place() const { return !free_.empty(); }
  uint32_t take();  // the waiting ticket whose turn it is

  void place(ChunkRead& read);  // says where its bytes lie and gives them a place to go to
  // Ends a read that was placed: unpacks it to `target` if it succeeded.
  void finish(ChunkResult& result, ObjectId object, uint32_t chunk, std::byte* target);

  double cpu_s() const { return cpu_s_; }

 private:
  std::optional<uint64_t>& digest(ObjectId object, uint32_t chunk) {
    return digests_[first_[object] + chunk];
  }

  const Unpacking& form_;
  const FileWatch* const watch_;  // null: the store's files are its own
  const std::span<std::byte> room_;
  const Bytes place_bytes_;
  Lanes waiting_;
  std::vector<uint32_t> free_;                    // places
  std::vector<uint32_t> place_of_;                // by ticket
  std::vector<uint32_t> first_;                   // by object: its first chunk in `digests_`
  std::vector<std::optional<uint64_t>> digests_;  // by chunk
  double cpu_s_ = 0;
};

}  // namespace headrace::swap
