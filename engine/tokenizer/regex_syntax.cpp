// Oniguruma's syntax (as Ruby reads it) rewritten for PCRE2. A single pass over the expression that
// copies what both read alike, spells out what they read differently, and refuses the rest.
#include <fmt/format.h>

#include <string>
#include <string_view>

#include "core/error.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/unicode_versions.h"

namespace headrace::engine {
namespace {

// Character classes spelled as members of a class. PCRE2's own \s has U+180E and its \w lacks
// marks, unlike Oniguruma's, which has the numbers of Latin-1 as well.
constexpr std::string_view kSpace =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translation {
 public:
  explicit Translation(std::string_view text) : text_(text) {}

  std::string run() {
    while (at_ < text_.size()) {
      switch (text_[at_]) {
        case '\\':
          escape(false);
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          interval();
          break;
        default:
          out_ += text_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("regular expression {:?}: {} at offset {} is not supported", text_, what, at_));
  }

  bool starts_with(std::string_view part) const { return text_.substr(at_, part.size()) == part; }

  void copy(size_t size) {
    out_ += text_.substr(at_, size);
    at_ += size;
  }

  // (?: (?= (?! (?<= (?<! (?> (?i: and plain groups read alike. An option that stands alone reads
  // alike only at the begin of the whole.
  void group() {
    if (!starts_with("(?")) return copy(1);
    if (starts_with("(?i)") && at_ == 0) return copy(4);
    for (const std::string_view open : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (starts_with(open)) return copy(open.size());
    }
    refuse("this kind of group");
  }

  void interval() {
    size_t end = at_ + 1;
    const auto digits = [&] {
      const size_t begin = end;
      while (end < text_.size() && is_digit(text_[end])) ++end;
      return text_.substr(begin, end - begin);
    };
    const std::string_view least = digits();
    const bool range = end < text_.size() && text_[end] == ',';
    if (range) ++end;
    const std::string_view most = range ? digits() : std::string_view();
    const bool closed = end < text_.size() && text_[end] == '}';
    if (!closed || (least.empty() && most.empty())) {  // both read it as a literal brace
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += fmt::format("{{{}{}{}}}", least.empty() ? "0" : least, range ? "," : "", most);
    at_ = end + 1;
    // Oniguruma repeats the interval where PCRE2 makes it possessive, or optional where PCRE2
    // makes it lazy.
    if (starts_with("+") || (!range && starts_with("?"))) refuse("a quantifier of an interval");
  }

  void character_class() {
    copy(1);
    if (starts_with("^")) copy(1);
    if (starts_with("]")) refuse("an empty character class");
    while (at_ < text_.size() && text_[at_] != ']') {
      if (text_[at_] == '[') refuse("a class inside a class");
      if (starts_with("&&")) refuse("an intersection of classes");
      if (text_[at_] == '\\') {
        escape(true);
      } else {
        copy(1);
      }
    }
    if (at_ == text_.size()) refuse("a class without end");
    copy(1);
  }

  void members(std::string_view set, bool in_class, bool negated = false) {
    out_ += in_class ? std::string(set) : fmt::format("[{}{}]", negated ? "^" : "", set);
  }

  void escape(bool in_class) {
    if (at_ + 1 == text_.size()) refuse("a backslash");
    const char c = text_[at_ + 1];
    if (!is_letter(c) && !is_digit(c)) {
      // Both read it as the character itself.
      out_ += '\\';
      ++at_;
      return copy(1);
    }
    switch (c) {
      case 'p':
      case 'P':
        return property();
      case 'x':
      case 'u':
        return code_point();
      default:
        break;
    }
    at_ += 2;
    switch (c) {
      case 's':
        return members(kSpace, in_class);
      case 'S':
        return members(in_class ? kNotSpace : kSpace, in_class, true);
      case 'd':
        out_ += R"(\p{Nd})";
        return;
      case 'D':
        out_ += R"(\P{Nd})";
        return;
      case 'w':
        return members(kWord, in_class);
      case 'n':
        out_ += R"(\x0a)";
        return;
      case 'r':
        out_ += R"(\x0d)";
        return;
      case 't':
        out_ += R"(\x09)";
        return;
      case 'f':
        out_ += R"(\x0c)";
        return;
      case 'v':
        out_ += R"(\x0b)";
        return;
      case 'a':
        out_ += R"(\x07)";
        return;
      case 'e':
        out_ += R"(\x1b)";
        return;
      default:
        break;
    }
    if (c == 'W' && !in_class) return members(kWord, false, true);
    if ((c == 'A' || c == 'z') && !in_class) {
      out_ += '\\';
      out_ += c;
      return;
    }
    at_ -= 2;
    refuse(fmt::format("\\{}", c));
  }

  // \p{L}, \P{Lu}, \p{^N}, \p{Han}: categories read alike; a script means Script in Oniguruma and
  // Script_Extensions in PCRE2 unless it is told.
  void property() {
    const size_t close = text_.find('}', at_);
    if (at_ + 2 >= text_.size() || text_[at_ + 2] != '{' || close == std::string_view::npos) {
      refuse("a property without braces");
    }
    std::string_view name = text_.substr(at_ + 3, close - at_ - 3);
    bool negated = text_[at_ + 1] == 'P';
    if (!name.empty() && name.front() == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    for (const char c : name) {
      if (!is_letter(c) && c != '_') refuse("this property");
    }
    if (name.empty()) refuse("this property");
    out_ += fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', name.size() > 2 ? "sc:" : "", name);
    at_ = close + 1;
  }

  // \x41, \x{1F600}, \u00e9
  void code_point() {
    size_t begin = at_ + 2;
    const bool braces = begin < text_.size() && text_[begin] == '{';
    if (braces) ++begin;
    const size_t most = text_[at_ + 1] == 'u' ? 4 : braces ? 8 : 2;
    size_t end = begin;
    while (end < text_.size() && end - begin < most && is_hex(text_[end])) ++end;
    const bool complete = braces ? end < text_.size() && text_[end] == '}' : end - begin == most;
    if (end == begin || !complete || (braces && text_[at_ + 1] == 'u')) refuse("this number");
    // Oniguruma reads \x80 and above as one byte of UTF-8.
    if (!braces && most == 2 && text_[begin] >= '8') refuse("a byte above 0x7f");
    out_ += fmt::format("\\x{{{}}}", text_.substr(begin, end - begin));
    at_ = end + (braces ? 1 : 0);
  }

  std::string_view text_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_regex(std::string_view oniguruma) {
  // Pattern::find_all() puts others in the place of these, so that they would never match.
  for (size_t at = 0; at < oniguruma.size();) {
    const char32_t c = next_char(oniguruma, at);
    if (stand_in(c) != c) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("regular expression {:?}: the character U+{:04X} is not supported",
                              oniguruma, static_cast<uint32_t>(c)));
    }
  }
  return Translation(oniguruma).run();
}

}  // namespace headrace::engine
