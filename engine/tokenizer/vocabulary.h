// Tokens, their ids and the merges of BPE in compact tables: one arena of text and open addressing,
// since tokenizer memory counts against the budget. Sized exactly once by reserve(), from counts
// that a first pass over the file took; then filled; then const and shared by any threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tier.h"

namespace headrace::engine {

inline constexpr uint32_t kIdEnd = 1U << 24;       // ids are below
inline constexpr size_t kTokenBytesMax = 1 << 16;  // text of one token

struct VocabularyCounts {
  uint64_t tokens = 0;
  uint64_t text_bytes = 0;
  uint64_t merges = 0;
  uint32_t id_end = 0;  // highest id + 1
};

struct Merge {
  uint32_t left, right, merged;
};

class Vocabulary {
 public:
  // Throws kFormat when ids are so sparse that a table over them would waste memory.
  void reserve(const VocabularyCounts& counts);
  // Throws kFormat when the token or the id is there already.
  void add(std::string_view token, uint32_t id);
  // The next merge; its rank is its place in the file. Throws kFormat when a part or the whole is
  // no token. Of two merges of one pair the later counts.
  void add_merge(std::string_view left, std::string_view right);

  std::optional<uint32_t> find(std::string_view token) const;
  bool has(uint32_t id) const { return id < offsets_.size() && offsets_[id] != kHole; }
  std::string_view token(uint32_t id) const;  // has(id)
  uint32_t id_end() const { return static_cast<uint32_t>(offsets_.size()); }
  uint64_t size() const { return tokens_; }

  static constexpr uint32_t kNoRank = ~0U;
  uint32_t rank(uint32_t left, uint32_t right) const;  // kNoRank when the pair does not merge
  uint32_t merged(uint32_t rank) const { return merges_[rank].merged; }

  static uint64_t stored_bytes(std::string_view token);  // in the arena

 private:
  static constexpr uint32_t kHole = ~0U;

  size_t slot_of(std::string_view token, bool& found) const;
  size_t slot_of(uint32_t left, uint32_t right, bool& found) const;

  std::string arena_;              // per token: its size in one to three bytes, then its text
  std::vector<uint32_t> offsets_;  // [id_end] into arena_, kHole where there is no token
  std::vector<uint32_t> ids_;      // hash table of id + 1; 0 is empty
  std::vector<Merge> merges_;      // by rank
  std::vector<uint32_t> ranks_;    // hash table of rank + 1; 0 is empty
  std::string joined_;             // of add_merge()
  uint64_t tokens_ = 0;
  VocabularyCounts counts_;
};

}  // namespace headrace::engine
