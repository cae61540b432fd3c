// Where versions of Unicode differ. The library that defines tokenizer.json takes each of its
// tables from a version of its own (Oniguruma and Rust 16, normal forms 9, punctuation 8);
// PCRE2 10.42 has 14 and utf8proc 2.8 has 15. These tables are the differences, found by putting
// every character through both; tests/engine/tokenizer_unicode_test.cpp does so again.
#pragma once

namespace headrace::engine {

// For a character that PCRE2 does not know yet: a known one of the same category, use in words,
// main script and size in UTF-8. Any other character stands for itself.
char32_t stand_in(char32_t c);
// Characters that the library's normal forms leave alone and take for starters.
bool is_inert(char32_t c);
// Whether the library sees punctuation where utf8proc does not, or the other way round.
bool differs_in_punctuation(char32_t c);
// The lower case of a character that utf8proc does not know to have one; 0 for all others.
char32_t later_lowercase(char32_t c);

}  // namespace headrace::engine
