// Which KV blocks hold which prompts: a trie of full blocks, so that requests that begin with the
// same tokens find what is there. A node is a block's content, named by a number that is never used
// twice; its key is the node before it and its own tokens, compared in full, so that what is found
// is what was asked for whatever a prompt holds. Nothing is allocated after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/args.h"

namespace headrace::engine {

class PrefixIndex {
 public:
  static constexpr uint64_t kRoot = 0;      // the node before the first block
  static constexpr uint32_t kNobody = ~0u;  // no block
  static constexpr size_t kBytesPerBlock = kernels::kKvBlockTokens * 4 + 40;  // of this index

  explicit PrefixIndex(uint32_t blocks);

  // The block whose tokens [kKvBlockTokens] come behind node `before`; kNobody: there is none.
  uint32_t find(uint64_t before, std::span<const int32_t> tokens) const;
  // Names what `block` will hold; it must have no name. Gives its node.
  uint64_t add(uint32_t block, uint64_t before, std::span<const int32_t> tokens);
  void remove(uint32_t block);  // its content goes; what came behind it is not found any more
  uint64_t node(uint32_t block) const { return entries_[block].node; }  // kRoot: without a name

 private:
  struct Entry {
    uint64_t node = kRoot, before = kRoot;
    uint32_t next = kNobody;  // of the same bucket
  };
  size_t bucket(uint64_t before, std::span<const int32_t> tokens) const;
  std::span<const int32_t> tokens_of(uint32_t block) const;

  std::vector<Entry> entries_;     // per block
  std::vector<int32_t> tokens_;    // [blocks, kKvBlockTokens]
  std::vector<uint32_t> buckets_;  // first block of each; a power of two of them
  uint64_t last_node_ = kRoot;
};

}  // namespace headrace::engine
