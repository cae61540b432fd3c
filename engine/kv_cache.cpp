#include "engine/kv_cache.h"

#include "core/error.h"

namespace headrace::engine {

KvCache::KvCache(std::span<std::byte> memory, Bytes block_bytes, uint32_t blocks,
                 uint32_t sequences_max, uint32_t blocks_per_sequence)
    : blocks_per_sequence_(blocks_per_sequence),
      table_(size_t{sequences_max} * blocks_per_sequence),
      sequences_(sequences_max),
      views_(sequences_max) {
  HEADRACE_ASSERT(memory.size() >= block_bytes * blocks);
  free_.reserve(blocks);
  for (uint32_t b = blocks; b > 0; --b) free_.push_back(memory.data() + (b - 1) * block_bytes);
  for (uint32_t s = 0; s < sequences_max; ++s) {
    sequences_[s].blocks = table_.data() + size_t{s} * blocks_per_sequence;
    views_[s].blocks = sequences_[s].blocks;
  }
}

uint32_t KvCache::open() {
  for (uint32_t s = 0; s < sequences_.size(); ++s) {
    if (sequences_[s].open) continue;
    sequences_[s].open = true;
    return s;
  }
  HEADRACE_ASSERT(false, "more sequences than the cache was made for");
  return 0;
}

bool KvCache::grow(uint32_t sequence, uint64_t tokens) {
  Sequence& s = sequences_[sequence];
  const uint32_t wanted = kv_blocks_for(tokens);
  HEADRACE_ASSERT(s.open && wanted <= blocks_per_sequence_);
  if (wanted > s.count && wanted - s.count > free_.size()) return false;
  while (s.count < wanted) {
    s.blocks[s.count++] = free_.back();
    free_.pop_back();
  }
  return true;
}

void KvCache::close(uint32_t sequence) {
  Sequence& s = sequences_[sequence];
  while (s.count > 0) free_.push_back(s.blocks[--s.count]);
  s.open = false;
}

}  // namespace headrace::engine
