// A pattern of tokenizer.json: a literal or a regular expression. The format's expressions are
// Oniguruma's (Ruby syntax, Unicode classes); they are rewritten for PCRE2 where the two differ and
// refused by name where they cannot be. Const and thread-safe after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tier.h"

namespace headrace::engine {

// A part of a text, [begin, end), and whether the pattern matched it.
struct Span {
  size_t begin, end;
  bool matched;
};

// What all patterns of one tokenizer may keep resident together: a bound that is known before they
// are compiled.
struct PatternBudget {
  Bytes code_left = 48 * kKiB;
  Bytes native_left = 256 * kKiB;  // of just-in-time code; without it patterns run interpreted
};

// In PCRE2's syntax; throws kUnsupported.
std::string translate_regex(std::string_view oniguruma);

class Pattern {
 public:
  static Pattern literal(std::string text);  // not empty
  static Pattern regex(std::string_view oniguruma, PatternBudget& budget);
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

  // Replaces `out` with spans that cover `text` in order. Throws kFailed when a hostile expression
  // exceeds its limits on this text.
  void find_all(std::string_view text, std::vector<Span>& out) const;
  const std::string& literal_text() const { return literal_; }  // empty for an expression

 private:
  struct Compiled;
  Pattern();

  std::string literal_;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace headrace::engine
