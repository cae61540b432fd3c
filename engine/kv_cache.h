// KV blocks in one fixed piece of memory: which block belongs to which request. A block holds
// kKvBlockTokens tokens of all layers. Nothing is allocated after construction.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/tier.h"
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

  uint32_t open();  // a request's handle; asserts that one is free
  bool grow(uint32_t sequence,
            uint64_t tokens);     // room for so many tokens; false: no block is free
  void close(uint32_t sequence);  // its blocks are free again
  // Indexed by handle: what kernels read. Addresses stay valid for the cache's life.
  std::span<const kernels::SequenceKv> sequences() const { return views_; }
  uint32_t free_blocks() const { return static_cast<uint32_t>(free_.size()); }

 private:
  struct Sequence {
    std::byte** blocks = nullptr;  // blocks_per_sequence_ places in table_
    uint32_t count = 0;
    bool open = false;
  };
  uint32_t blocks_per_sequence_;
  std::vector<std::byte*> table_;
  std::vector<std::byte*> free_;
  std::vector<Sequence> sequences_;
  std::vector<kernels::SequenceKv> views_;
};

}  // namespace headrace::engine
