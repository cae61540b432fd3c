#include "engine/kv_prefix.h"

#include <algorithm>
#include <bit>

#include "core/digest.h"
#include "core/error.h"

namespace headrace::engine {

using kernels::kKvBlockTokens;

PrefixIndex::PrefixIndex(uint32_t blocks)
    : entries_(blocks),
      tokens_(size_t{blocks} * kKvBlockTokens),
      buckets_(std::bit_ceil(std::max<size_t>(blocks, 1)), kNobody) {}

size_t PrefixIndex::bucket(uint64_t before, std::span<const int32_t> tokens) const {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  return digest64(bytes, before) & (buckets_.size() - 1);
}

std::span<const int32_t> PrefixIndex::tokens_of(uint32_t block) const {
  return std::span(tokens_).subspan(size_t{block} * kKvBlockTokens, kKvBlockTokens);
}

uint32_t PrefixIndex::find(uint64_t before, std::span<const int32_t> tokens) const {
  HEADRACE_ASSERT(tokens.size() == kKvBlockTokens);
  uint32_t block = buckets_[bucket(before, tokens)];
  while (block != kNobody &&
         (entries_[block].before != before || !std::ranges::equal(tokens_of(block), tokens))) {
    block = entries_[block].next;
  }
  return block;
}

uint64_t PrefixIndex::add(uint32_t block, uint64_t before, std::span<const int32_t> tokens) {
  HEADRACE_ASSERT(tokens.size() == kKvBlockTokens && entries_[block].node == kRoot);
  std::ranges::copy(tokens, tokens_.begin() + static_cast<ptrdiff_t>(block * kKvBlockTokens));
  uint32_t& first = buckets_[bucket(before, tokens)];
  entries_[block] = {.node = ++last_node_, .before = before, .next = first};
  first = block;
  return last_node_;
}

void PrefixIndex::remove(uint32_t block) {
  Entry& entry = entries_[block];
  if (entry.node == kRoot) return;
  uint32_t* link = &buckets_[bucket(entry.before, tokens_of(block))];
  while (*link != block) link = &entries_[*link].next;
  *link = entry.next;
  entry = {};
}

}  // namespace headrace::engine
