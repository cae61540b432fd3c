// What the tokenizer knows of Unicode: UTF-8 in both directions, the character classes that
// tokenizer.json names, normal forms, and GPT-2's alphabet of 256 printable characters that stand
// for bytes. Text given to these functions is valid UTF-8 unless they say otherwise. All are pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace headrace::engine {

inline constexpr std::string_view kReplacementText = "\xEF\xBF\xBD";  // U+FFFD

// The character at `at`, which moves behind it.
char32_t next_char(std::string_view text, size_t& at);
// The character that ends at `end` (> 0), which moves to its begin.
char32_t previous_char(std::string_view text, size_t& end);
void append_utf8(char32_t c, std::string& out);

// Turns bytes that come in arbitrary cuts into valid UTF-8: each maximal part of an ill-formed
// sequence becomes one U+FFFD (Unicode 3.9, "substitution of maximal subparts").
class LossyUtf8 {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);  // what is still incomplete becomes U+FFFD

 private:
  std::string pending_;  // at most three bytes between calls
};

bool is_utf8(std::string_view bytes);
// `bytes` itself when it is valid UTF-8; otherwise `storage` holds the repaired text.
std::string_view to_utf8(std::string_view bytes, std::string& storage);

bool is_space(char32_t c);        // White_Space
bool is_word(char32_t c);         // \w of UTS 18: letters, marks, digits, connectors, joiners
bool is_numeric(char32_t c);      // categories Nd, Nl, No
bool is_punctuation(char32_t c);  // ASCII punctuation and categories P*

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };
std::string to_normal_form(std::string_view text, NormalForm form);
std::string to_lowercase(std::string_view text);  // full mapping, without context

char32_t char_of_byte(uint8_t byte);  // GPT-2: printable Latin-1 stands for itself, the rest 256…
int byte_of_char(char32_t c);         // the inverse; -1 for a character outside that alphabet

}  // namespace headrace::engine
