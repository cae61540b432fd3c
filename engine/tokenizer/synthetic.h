// A tokenizer made up for synthetic models: byte-level BPE with exactly as many ids as asked for,
// the same bytes for the same arguments on every machine.
#pragma once

#include <cstdint>
#include <string>

namespace headrace::engine {

inline constexpr uint64_t kSyntheticVocabularyLeast = 258;  // the bytes, begin and end of text

// Text of tokenizer.json: 256 byte tokens, merges of made-up words, and the special tokens
// <|begin_of_text|> and <|end_of_text|> with the last two ids. The former goes before each text.
// Throws kUsage when the size is below kSyntheticVocabularyLeast or above 2^24.
std::string synthetic_tokenizer_json(uint64_t vocabulary_size, uint64_t seed);
// Text of the tokenizer_config.json that goes with it.
std::string synthetic_tokenizer_config_json();

}  // namespace headrace::engine
