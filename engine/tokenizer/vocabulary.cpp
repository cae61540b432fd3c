#include "engine/tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <cstring>

#include "core/error.h"

namespace headrace::engine {
namespace {

// At two thirds full a chain of this length does not happen by chance: the file was made to
// collide, and would cost quadratic time.
constexpr size_t kProbesMax = 2048;

uint64_t mix(uint64_t value) {
  value *= 0x9E3779B97F4A7C15U;
  return value ^ (value >> 32);
}

uint64_t hash_of(std::string_view text) {
  uint64_t hash = text.size() + 0x632BE59BD9B4E019U;
  for (; text.size() >= 8; text.remove_prefix(8)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data(), 8);
    hash = mix(hash ^ word);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, text.data(), text.size());
  return mix(mix(hash ^ rest));
}

// Maps a hash to [0, slots) without a division; slots < 2^32.
size_t first_slot(uint64_t hash, size_t slots) {
  return static_cast<size_t>((mix(hash) >> 32) * slots >> 32);
}

// Two thirds full; never completely, so that each search ends.
size_t slots_for(uint64_t count) { return static_cast<size_t>(count + count / 2 + 2); }

[[noreturn]] void fail_collisions() {
  throw Error(ErrorCode::kFormat,
              "vocabulary: its entries collide as if made to; use a file from a trusted source");
}

}  // namespace

uint64_t Vocabulary::stored_bytes(std::string_view token) {
  return token.size() + (token.size() < 0x80 ? 1 : token.size() < 0x4000 ? 2 : 3);
}

void Vocabulary::reserve(const VocabularyCounts& counts) {
  // Holes are legal, but the table over ids must stay in proportion to the file.
  if (counts.id_end > 2 * counts.tokens + 1024) {
    throw Error(ErrorCode::kFormat,
                fmt::format("vocabulary: its highest id is {} but it has only {} tokens; ids must "
                            "be nearly dense",
                            counts.id_end - 1, counts.tokens));
  }
  counts_ = counts;
  arena_.reserve(counts.text_bytes);
  offsets_.assign(counts.id_end, kHole);
  ids_.assign(slots_for(counts.tokens), 0);
  merges_.reserve(counts.merges);
  ranks_.assign(slots_for(counts.merges), 0);
}

size_t Vocabulary::slot_of(std::string_view token, bool& found) const {
  size_t slot = first_slot(hash_of(token), ids_.size());
  for (size_t probe = 0; probe < kProbesMax; ++probe) {
    if (ids_[slot] == 0) return found = false, slot;
    if (this->token(ids_[slot] - 1) == token) return found = true, slot;
    if (++slot == ids_.size()) slot = 0;
  }
  fail_collisions();
}

size_t Vocabulary::slot_of(uint32_t left, uint32_t right, bool& found) const {
  size_t slot = first_slot(mix(uint64_t{left} << 32 | right), ranks_.size());
  for (size_t probe = 0; probe < kProbesMax; ++probe) {
    if (ranks_[slot] == 0) return found = false, slot;
    const Merge& merge = merges_[ranks_[slot] - 1];
    if (merge.left == left && merge.right == right) return found = true, slot;
    if (++slot == ranks_.size()) slot = 0;
  }
  fail_collisions();
}

void Vocabulary::add(std::string_view token, uint32_t id) {
  const uint64_t bytes = stored_bytes(token);
  if (tokens_ == counts_.tokens || arena_.size() + bytes > counts_.text_bytes ||
      id >= counts_.id_end) {
    throw Error(ErrorCode::kFormat, "vocabulary: the file changed while it was read; try again");
  }
  bool found = false;
  const size_t slot = slot_of(token, found);
  if (found) {
    throw Error(ErrorCode::kFormat,
                fmt::format("vocabulary: the token {:?} is there twice", token));
  }
  if (offsets_[id] != kHole) {
    throw Error(ErrorCode::kFormat, fmt::format("vocabulary: the id {} is there twice", id));
  }
  offsets_[id] = static_cast<uint32_t>(arena_.size());
  size_t rest = token.size();
  for (; rest >= 0x80; rest >>= 7) arena_.push_back(static_cast<char>(0x80 | (rest & 0x7F)));
  arena_.push_back(static_cast<char>(rest));
  arena_.append(token);
  ids_[slot] = id + 1;
  ++tokens_;
}

std::string_view Vocabulary::token(uint32_t id) const {
  HEADRACE_DEBUG_ASSERT(has(id));
  const char* at = arena_.data() + offsets_[id];
  size_t size = 0;
  for (unsigned shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(*at++);
    size |= size_t{byte & 0x7FU} << shift;
    if (byte < 0x80) return {at, size};
  }
}

std::optional<uint32_t> Vocabulary::find(std::string_view token) const {
  if (ids_.empty()) return std::nullopt;
  bool found = false;
  const size_t slot = slot_of(token, found);
  if (!found) return std::nullopt;
  return ids_[slot] - 1;
}

void Vocabulary::add_merge(std::string_view left, std::string_view right) {
  if (merges_.size() == counts_.merges) {
    throw Error(ErrorCode::kFormat, "merges: the file changed while it was read; try again");
  }
  joined_.assign(left).append(right);
  const auto a = find(left);
  const auto b = find(right);
  const auto both = find(joined_);
  if (!a || !b || !both || left.empty() || right.empty()) {
    throw Error(ErrorCode::kFormat,
                fmt::format("merge {}: {:?} is no token of the vocabulary", merges_.size(),
                            !a || left.empty()    ? left
                            : !b || right.empty() ? right
                                                  : std::string_view(joined_)));
  }
  bool found = false;
  const size_t slot = slot_of(*a, *b, found);
  merges_.push_back({*a, *b, *both});
  ranks_[slot] = static_cast<uint32_t>(merges_.size());
}

uint32_t Vocabulary::rank(uint32_t left, uint32_t right) const {
  if (merges_.empty()) return kNoRank;
  bool found = false;
  const size_t slot = slot_of(left, right, found);
  return found ? ranks_[slot] - 1 : kNoRank;
}

}  // namespace headrace::engine
