// KV blocks by number: which belongs to which request. A block holds kKvBlockTokens tokens of all
// layers; here its address is that of the first layer's part, and the parts of the others are
// elsewhere at the same distance for all blocks (Pass::kv_offsets), or on disk. Requests that begin
// with the same tokens share the full blocks of them; a block that nobody uses keeps what it holds
// until its place is wanted. Nothing is allocated after construction.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/tier.h"
#include "engine/kv_prefix.h"
#include "kernels/args.h"

namespace headrace::engine {

constexpr uint32_t kv_blocks_for(uint64_t tokens) {
  return static_cast<uint32_t>((tokens + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens);
}

class KvCache {
 public:
  // `memory` holds `blocks` blocks of `block_bytes`; at most `sequences_max` requests at a time,
  // none of more than `blocks_per_sequence` blocks.
  KvCache(std::span<std::byte> memory, Bytes block_bytes, uint32_t blocks, uint32_t sequences_max,
          uint32_t blocks_per_sequence);

  // Of this object, besides the blocks themselves.
  static Bytes bytes_for(uint64_t blocks, uint64_t sequences_max, uint64_t blocks_per_sequence);

  uint32_t open();  // a request's handle; asserts that one is free
  // Sets aside the blocks of `tokens`, so that growing up to there cannot fail; false: too few are
  // free.
  bool reserve(uint32_t sequence, uint64_t tokens);
  // Room for so many tokens, from what was set aside and then from what is free; false: too little.
  bool grow(uint32_t sequence, uint64_t tokens);
  void close(uint32_t sequence);  // its blocks are free again, unless somebody shares them

  // Begins an empty sequence with the blocks that hold, or will hold, the head of `prompt`: full
  // blocks, and never the last token, whose row gives the first logits. Gives their tokens.
  uint64_t share(uint32_t sequence, std::span<const int32_t> prompt);
  // Makes room for `prompt` and lets others share its full blocks, once they are filled.
  void publish(uint32_t sequence, std::span<const int32_t> prompt);
  void set_filled(uint32_t sequence, uint64_t tokens);  // computed by this sequence so far
  bool shared_is_filled(uint32_t sequence) const;       // what it shares can be attended to

  // Indexed by handle: what kernels read. Addresses stay valid for the cache's life.
  std::span<const kernels::SequenceKv> sequences() const { return views_; }
  const std::byte* memory() const { return memory_; }  // address of block 0
  uint32_t free_blocks() const { return free_ - set_aside_; }

 private:
  struct Block {
    uint32_t users = 0;
    bool filled = false;                   // of a named block
    uint32_t before = kEnd, after = kEnd;  // in the list of free ones
  };
  struct Sequence {
    uint32_t count = 0, reserved = 0, shared = 0, filled = 0;  // blocks
    bool open = false;
  };
  static constexpr uint32_t kEnd = ~0u;

  uint32_t* ids(uint32_t sequence) { return ids_.data() + size_t{sequence} * per_sequence_; }
  void append(uint32_t sequence, uint32_t block);
  uint32_t take();                            // the block that has been free for longest
  void unlink(uint32_t block);                // from the list of free ones
  void give_back(uint32_t block, bool last);  // to its end, or to its head

  std::byte* memory_;
  Bytes block_bytes_;
  uint32_t per_sequence_;
  std::vector<std::byte*> table_;  // [sequences, per_sequence_]: what views_ point into
  std::vector<uint32_t> ids_;      // [sequences, per_sequence_]
  std::vector<Block> blocks_;
  std::vector<Sequence> sequences_;
  std::vector<kernels::SequenceKv> views_;
  PrefixIndex index_;
  uint32_t first_free_ = kEnd, last_free_ = kEnd, free_ = 0;
  uint32_t set_aside_ = 0;  // of the free ones, for sequences that will grow
};

}  // namespace headrace::engine
