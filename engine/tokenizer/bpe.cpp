#include "engine/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

// Least rank first, then leftmost: std:: heaps keep the greatest in front.
bool later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void add_symbol(uint32_t id, BpeScratch& scratch) {
  auto& symbols = scratch.symbols;
  const auto at = static_cast<int32_t>(symbols.size());
  if (at > 0) symbols.back().next = at;
  symbols.push_back({.id = id, .previous = at - 1, .next = -1, .gone = false});
}

}  // namespace

Bpe::Bpe(const Vocabulary& vocabulary, BpeOptions options)
    : vocabulary_(vocabulary), options_(std::move(options)) {
  const auto find = [&](std::string_view token) {
    const auto id = vocabulary.find(token);
    return id ? static_cast<int32_t>(*id) : -1;
  };
  for (size_t c = 0; c < small_.size(); ++c) {
    std::string text;
    append_utf8(static_cast<char32_t>(c), text);
    small_[c] = find(text);
  }
  for (size_t b = 0; b < bytes_.size(); ++b) bytes_[b] = find(fmt::format("<0x{:02X}>", b));
  if (options_.unknown.empty()) return;
  unknown_ = find(options_.unknown);
  if (unknown_ < 0) {
    throw Error(ErrorCode::kFormat, fmt::format("model.unk_token: {:?} is no token of the "
                                                "vocabulary",
                                                options_.unknown));
  }
}

int64_t Bpe::id_of(std::string_view character) const {
  size_t at = 0;
  const char32_t c = next_char(character, at);
  if (c < small_.size()) return small_[c];
  const auto id = vocabulary_.find(character);
  return id ? static_cast<int64_t>(*id) : -1;
}

// Either each byte of the character has a token, or none is used.
bool Bpe::fall_back(std::string_view character, BpeScratch& scratch) const {
  const auto id = [&](char byte) { return bytes_[static_cast<uint8_t>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char b) { return id(b) >= 0; })) {
    return false;
  }
  for (const char byte : character) add_symbol(static_cast<uint32_t>(id(byte)), scratch);
  return true;
}

void Bpe::split(std::string_view word, BpeScratch& scratch) const {
  scratch.symbols.clear();
  // An unknown character waits here for neighbours to fuse with. As in the library that defines
  // the format, only a known character ends the wait: bytes that fall back pass it.
  bool waiting = false;
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    next_char(word, at);
    const std::string_view character = word.substr(begin, at - begin);
    const int64_t id = id_of(character);
    if (id >= 0) {
      if (std::exchange(waiting, false)) add_symbol(static_cast<uint32_t>(unknown_), scratch);
      add_symbol(static_cast<uint32_t>(id), scratch);
      continue;
    }
    if (options_.byte_fallback && fall_back(character, scratch)) continue;
    if (unknown_ < 0) continue;
    if (waiting && !options_.fuse_unknown) add_symbol(static_cast<uint32_t>(unknown_), scratch);
    waiting = true;
  }
  if (waiting) add_symbol(static_cast<uint32_t>(unknown_), scratch);
}

// Puts the pair that begins at `position` into the heap if it merges.
void Bpe::propose(uint32_t position, BpeScratch& scratch) const {
  const auto& symbol = scratch.symbols[position];
  if (symbol.next < 0) return;
  const uint32_t right = scratch.symbols[static_cast<size_t>(symbol.next)].id;
  const uint32_t rank = vocabulary_.rank(symbol.id, right);
  if (rank == Vocabulary::kNoRank) return;
  scratch.heap.push_back({.rank = rank, .position = position, .merged = vocabulary_.merged(rank)});
}

void Bpe::merge(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  for (uint32_t i = 0; i < symbols.size(); ++i) propose(i, scratch);
  std::make_heap(heap.begin(), heap.end(), later);
  const auto propose_and_sift = [&](uint32_t position) {
    const size_t before = heap.size();
    propose(position, scratch);
    if (heap.size() != before) std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    auto& left = symbols[top.position];
    if (left.gone || left.next < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.next)];
    // A candidate is stale when a neighbour has merged since, unless the new pair makes the same
    // token.
    const uint32_t rank = vocabulary_.rank(left.id, right.id);
    if (rank == Vocabulary::kNoRank || vocabulary_.merged(rank) != top.merged) continue;
    left.id = top.merged;
    left.next = right.next;
    right.gone = true;
    if (right.next >= 0) {
      symbols[static_cast<size_t>(right.next)].previous = static_cast<int32_t>(top.position);
    }
    if (left.previous >= 0) propose_and_sift(static_cast<uint32_t>(left.previous));
    propose_and_sift(top.position);
  }
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    if (const auto id = vocabulary_.find(word)) return out.push_back(static_cast<int32_t>(*id));
  }
  split(word, scratch);
  merge(scratch);
  for (const auto& symbol : scratch.symbols) {
    if (!symbol.gone) out.push_back(static_cast<int32_t>(symbol.id));
  }
}

}  // namespace headrace::engine
