#include "engine/kv_cache.h"

#include "core/error.h"

namespace headrace::engine {

using kernels::kKvBlockTokens;

KvCache::KvCache(std::span<std::byte> memory, Bytes block_bytes, uint32_t blocks,
                 uint32_t sequences_max, uint32_t blocks_per_sequence)
    : memory_(memory.data()),
      block_bytes_(block_bytes),
      per_sequence_(blocks_per_sequence),
      table_(size_t{sequences_max} * blocks_per_sequence),
      ids_(table_.size()),
      blocks_(blocks),
      sequences_(sequences_max),
      views_(sequences_max),
      index_(blocks) {
  HEADRACE_ASSERT(memory.size() >= block_bytes * blocks);
  for (uint32_t b = 0; b < blocks; ++b) give_back(b, true);
  for (uint32_t s = 0; s < sequences_max; ++s) {
    views_[s].blocks = table_.data() + size_t{s} * blocks_per_sequence;
  }
}

Bytes KvCache::bytes_for(uint64_t blocks, uint64_t sequences_max, uint64_t blocks_per_sequence) {
  const Bytes places = sequences_max * blocks_per_sequence;
  return blocks * (sizeof(Block) + PrefixIndex::kBytesPerBlock) +
         places * (sizeof(std::byte*) + sizeof(uint32_t)) +
         sequences_max * (sizeof(Sequence) + sizeof(kernels::SequenceKv));
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

bool KvCache::reserve(uint32_t sequence, uint64_t tokens) {
  Sequence& s = sequences_[sequence];
  const uint32_t wanted = kv_blocks_for(tokens);
  HEADRACE_ASSERT(s.open && wanted <= per_sequence_);
  const uint32_t have = std::max(s.reserved, s.count);
  if (wanted <= have) return true;
  if (wanted - have > free_blocks()) return false;
  set_aside_ += wanted - have;
  s.reserved = wanted;
  return true;
}

bool KvCache::grow(uint32_t sequence, uint64_t tokens) {
  if (!reserve(sequence, tokens)) return false;
  Sequence& s = sequences_[sequence];
  for (const uint32_t wanted = kv_blocks_for(tokens); s.count < wanted; --set_aside_) {
    append(sequence, take());
  }
  return true;
}

void KvCache::close(uint32_t sequence) {
  Sequence& s = sequences_[sequence];
  set_aside_ -= s.reserved > s.count ? s.reserved - s.count : 0;
  // From the back: of a prefix that nobody uses, the end goes before the beginning.
  while (s.count > 0) {
    const uint32_t block = ids(sequence)[--s.count];
    if (--blocks_[block].users > 0) continue;
    const bool known = index_.node(block) != PrefixIndex::kRoot;
    if (known && !blocks_[block].filled) index_.remove(block);
    give_back(block, known && blocks_[block].filled);
  }
  s = {};
}

uint64_t KvCache::share(uint32_t sequence, std::span<const int32_t> prompt) {
  Sequence& s = sequences_[sequence];
  HEADRACE_ASSERT(s.open && s.count == 0 && s.reserved == 0);
  uint64_t node = PrefixIndex::kRoot;
  for (size_t end = kKvBlockTokens; end < prompt.size(); end += kKvBlockTokens) {
    const uint32_t block = index_.find(node, prompt.subspan(end - kKvBlockTokens, kKvBlockTokens));
    if (block == PrefixIndex::kNobody) break;
    if (blocks_[block].users == 0) {
      if (free_blocks() == 0) break;
      unlink(block);
    }
    append(sequence, block);
    node = index_.node(block);
  }
  s.shared = s.filled = s.count;
  return uint64_t{s.shared} * kKvBlockTokens;
}

void KvCache::publish(uint32_t sequence, std::span<const int32_t> prompt) {
  Sequence& s = sequences_[sequence];
  HEADRACE_ASSERT(grow(sequence, prompt.size()), "publish comes after reserve");
  uint64_t node = s.shared == 0 ? PrefixIndex::kRoot : index_.node(ids(sequence)[s.shared - 1]);
  for (size_t b = s.shared; b < prompt.size() / kKvBlockTokens; ++b) {
    const uint32_t block = ids(sequence)[b];
    const auto tokens = prompt.subspan(b * kKvBlockTokens, kKvBlockTokens);
    // The last block of an equal prompt was not shared: whose row gives logits must be computed.
    const uint32_t there = index_.find(node, tokens);
    if (there != PrefixIndex::kNobody) break;
    blocks_[block].filled = false;
    node = index_.add(block, node, tokens);
  }
}

void KvCache::set_filled(uint32_t sequence, uint64_t tokens) {
  Sequence& s = sequences_[sequence];
  const auto full = static_cast<uint32_t>(tokens / kKvBlockTokens);
  for (; s.filled < full; ++s.filled) blocks_[ids(sequence)[s.filled]].filled = true;
}

bool KvCache::shared_is_filled(uint32_t sequence) const {
  const Sequence& s = sequences_[sequence];
  // Whoever fills a block has waited for those before it.
  return s.shared == 0 || blocks_[ids_[size_t{sequence} * per_sequence_ + s.shared - 1]].filled;
}

void KvCache::append(uint32_t sequence, uint32_t block) {
  Sequence& s = sequences_[sequence];
  ++blocks_[block].users;
  ids(sequence)[s.count] = block;
  table_[size_t{sequence} * per_sequence_ + s.count] = memory_ + block * block_bytes_;
  ++s.count;
}

uint32_t KvCache::take() {
  const uint32_t block = first_free_;
  HEADRACE_ASSERT(block != kEnd, "more blocks were set aside than there are");
  unlink(block);
  index_.remove(block);
  return block;
}

void KvCache::unlink(uint32_t block) {
  Block& b = blocks_[block];
  (b.before == kEnd ? first_free_ : blocks_[b.before].after) = b.after;
  (b.after == kEnd ? last_free_ : blocks_[b.after].before) = b.before;
  b.before = b.after = kEnd;
  --free_;
}

void KvCache::give_back(uint32_t block, bool last) {
  Block& b = blocks_[block];
  b.before = last ? last_free_ : kEnd;
  b.after = last ? kEnd : first_free_;
  (b.before == kEnd ? first_free_ : blocks_[b.before].after) = block;
  (b.after == kEnd ? last_free_ : blocks_[b.after].before) = block;
  ++free_;
}

}  // namespace headrace::engine
