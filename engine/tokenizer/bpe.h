// Byte-pair encoding of one word: split into characters, then merge pairs by rank until none is
// left. n log n in the length of the word. Const after construction; a BpeScratch per thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocabulary.h"

namespace headrace::engine {

struct BpeOptions {
  std::string unknown;         // the token for characters outside the vocabulary; may be empty
  bool fuse_unknown = false;   // neighbours become one such token
  bool byte_fallback = false;  // they become tokens <0x00> … <0xFF> first, where those exist
  bool ignore_merges = false;  // a word that is a token is that token
};

struct BpeScratch {
  struct Symbol {
    uint32_t id;
    int32_t previous, next;  // -1: none
    bool gone;               // merged into its left neighbour
  };
  struct Candidate {
    uint32_t rank, position;
    uint32_t merged;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

class Bpe {
 public:
  // Throws kFormat when options.unknown is no token. `vocabulary` must outlive this.
  Bpe(const Vocabulary& vocabulary, BpeOptions options);
  // Appends the ids of `word`, valid UTF-8 of less than 2^31 bytes.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  void split(std::string_view word, BpeScratch& scratch) const;
  bool fall_back(std::string_view character, BpeScratch& scratch) const;
  void merge(BpeScratch& scratch) const;
  void propose(uint32_t position, BpeScratch& scratch) const;
  int64_t id_of(std::string_view character) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  int64_t unknown_ = -1;
  std::array<int32_t, 512> small_{};  // id of each character below U+0200, -1 when none
  std::array<int32_t, 256> bytes_{};  // id of <0x00> … <0xFF>, -1 when none
};

}  // namespace headrace::engine
