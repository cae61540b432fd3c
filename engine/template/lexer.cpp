#include "engine/template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "engine/template/text.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

constexpr size_t kTokensMax = 200'000;
constexpr size_t kBracketsMax = 200;

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

// One newline character, and none at the end.
std::string normal_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

int digit_of(char c) {
  if (is_ascii_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normal_lines(source)), text_(source_) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) root();
    add(Token::Type::kEnd);
    return std::move(tokens_);
  }

 private:
  bool starts_with(std::string_view part) const { return text_.substr(at_, part.size()) == part; }

  Token& add(Token::Type type, std::string text = {}) {
    if (tokens_.size() == kTokensMax) fail_at(line_, "it has too many parts");
    tokens_.push_back({type, line_, std::move(text)});
    return tokens_.back();
  }

  void move_to(size_t to) {
    line_ +=
        static_cast<uint32_t>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  size_t behind_blanks(size_t at) const {
    while (at < text_.size()) {
      size_t next = at;
      if (!is_blank(next_char(text_, next))) break;
      at = next;
    }
    return at;
  }

  // Text up to the next tag, then the tag's begin and, for comments and raw blocks, all of it.
  void root() {
    size_t tag = at_;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
        tag = std::string_view::npos;
        break;
      }
      const char kind = text_[tag + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
      ++tag;
    }
    if (tag == std::string_view::npos) {
      add(Token::Type::kText, std::string(text_.substr(at_)));
      return move_to(text_.size());
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    add_text(text_.substr(at_, tag - at_), has_sign ? sign : ' ', kind != '{');
    move_to(tag + (has_sign ? 3 : 2));
    line_starts_ = false;
    if (kind == '#') return comment();
    if (kind == '%' && raw()) return;
    add(kind == '{' ? Token::Type::kOutputBegin : Token::Type::kBlockBegin);
    expression(kind == '{' ? "}}" : "%}");
  }

  void add_text(std::string_view text, char sign, bool strips_line) {
    if (sign == '-') {
      text = strip(text, Side::kRight);
    } else if (sign != '+' && strips_line) {
      const size_t newline = text.rfind('\n');
      const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((begin > 0 || line_starts_) && strip(text.substr(begin), Side::kLeft).empty()) {
        text = text.substr(0, begin);
      }
    }
    if (!text.empty()) add(Token::Type::kText, std::string(text));
  }

  // Behind the closing `size` bytes at `at`: white space for "-", one newline for a block.
  void close(size_t at, size_t size, char sign, bool trims) {
    size_t end = at + size;
    if (sign == '-') {
      end = behind_blanks(end);
    } else if (sign != '+' && trims && end < text_.size() && text_[end] == '\n') {
      ++end;
    }
    line_starts_ = text_[end - 1] == '\n';
    move_to(end);
  }

  void comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string_view::npos) fail_at(line_, "a comment has no end");
    const char sign = end > at_ ? text_[end - 1] : ' ';
    close(end, 2, sign, true);
  }

  // The end of `{% word %}` where that begins at `at` behind its `{%` and sign; 0: it does not.
  size_t word_tag(size_t at, std::string_view word, char& sign, size_t& closing) const {
    at = behind_blanks(at);
    if (text_.substr(at, word.size()) != word) return 0;
    at = behind_blanks(at + word.size());
    sign = at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at] : ' ';
    if (sign != ' ') ++at;
    closing = at;
    return text_.substr(at, 2) == "%}" ? at + 2 : 0;
  }

  bool raw() {
    char sign = ' ';
    size_t closing = 0;
    if (word_tag(at_, "raw", sign, closing) == 0 || sign == '+') return false;
    close(closing, 2, sign, false);
    for (size_t tag = text_.find("{%", at_); tag != std::string_view::npos;
         tag = text_.find("{%", tag + 2)) {
      const char before = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
      const bool has_sign = before == '-' || before == '+';
      if (word_tag(tag + (has_sign ? 3 : 2), "endraw", sign, closing) == 0) continue;
      add_text(text_.substr(at_, tag - at_), has_sign ? before : ' ', true);
      close(closing, 2, sign, true);
      return true;
    }
    if (at_ == text_.size()) return true;  // nothing is missed
    fail_at(line_, "a raw block has no end");
  }

  void expression(std::string_view end) {
    const uint32_t begin_line = line_;
    std::string open;
    while (true) {
      move_to(behind_blanks(at_));
      if (at_ == text_.size()) fail_at(begin_line, fmt::format("a tag has no {}", end));
      if (open.empty() && closes(end)) return;
      if (number() || name() || string()) continue;
      symbol(open);
    }
  }

  bool closes(std::string_view end) {
    const bool block = end == "%}";
    const char sign = text_[at_] == '-' || (block && text_[at_] == '+') ? text_[at_] : ' ';
    const size_t at = at_ + (sign == ' ' ? 0 : 1);
    if (text_.substr(at, 2) != end) return false;
    add(block ? Token::Type::kBlockEnd : Token::Type::kOutputEnd);
    close(at, 2, sign, block);
    return true;
  }

  // Digits with single underscores between them, from `at`; their end.
  size_t digits(size_t at, int base) const {
    size_t end = at;
    while (end < text_.size()) {
      const bool gap = text_[end] == '_' && end > at && end + 1 < text_.size();
      const size_t digit = gap ? end + 1 : end;
      if (digit_of(text_[digit]) >= base) break;
      end = digit + 1;
    }
    return end;
  }

  std::string without_gaps(size_t begin, size_t end) const {
    std::string out(text_.substr(begin, end - begin));
    std::erase(out, '_');
    return out;
  }

  bool number() {
    if (!is_ascii_digit(text_[at_])) return false;
    if (text_[at_] == '0' && at_ + 2 < text_.size()) {
      const char mark = static_cast<char>(text_[at_ + 1] | 0x20);
      const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
      if (base != 0 && digit_of(text_[at_ + 2]) < base) {
        const size_t end = digits(at_ + 2, base);
        return integer(without_gaps(at_ + 2, end), base, end);
      }
    }
    const size_t whole = digits(at_, 10);
    size_t end = whole;
    const bool behind_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (end + 1 < text_.size() && text_[end] == '.' && is_ascii_digit(text_[end + 1])) {
      end = digits(end + 1, 10);
    }
    if (end < text_.size() && (text_[end] | 0x20) == 'e') {
      size_t digit = end + 1;
      if (digit < text_.size() && (text_[digit] == '+' || text_[digit] == '-')) ++digit;
      if (digit < text_.size() && is_ascii_digit(text_[digit])) end = digits(digit, 10);
    }
    if (end == whole || behind_dot) {
      const bool leading_zero =
          text_[at_] == '0' && whole - at_ > 1 &&
          without_gaps(at_, whole).find_first_not_of('0') != std::string::npos;
      if (leading_zero) fail_at(line_, "a whole number begins with 0");
      return integer(without_gaps(at_, whole), 10, whole);
    }
    Token& token = add(Token::Type::kFloat);
    const std::string text = without_gaps(at_, end);
    std::from_chars(text.data(), text.data() + text.size(), token.real);
    move_to(end);
    return true;
  }

  bool integer(const std::string& digits, int base, size_t end) {
    Int value = 0;
    for (const char c : digits) {
      if (value >> 116 != 0) fail_at(line_, "a number is too large");
      value = value * base + digit_of(c);
    }
    add(Token::Type::kInteger).integer = value;
    move_to(end);
    return true;
  }

  bool name() {
    size_t end = at_;
    while (end < text_.size()) {
      size_t next = end;
      const char32_t c = next_char(text_, next);
      if (c != '_' && !is_alphabetic(c) && !(end > at_ && (is_decimal(c) || is_word(c)))) break;
      end = next;
    }
    if (end == at_) return false;
    add(Token::Type::kName, std::string(text_.substr(at_, end - at_)));
    move_to(end);
    return true;
  }

  bool string() {
    const char quote = text_[at_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail_at(line_, "a text in quotes has no end");
    add(Token::Type::kString, unescaped(text_.substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
    return true;
  }

  // Python's escapes; a backslash before anything else stays.
  std::string unescaped(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\') {
        out += raw[i++];
        continue;
      }
      const char c = raw[i + 1];
      i += 2;
      constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
        out += kTo[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        coded(raw, i, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, out);
      } else if (c >= '0' && c <= '7') {
        --i;
        size_t size = 1;
        while (size < 3 && i + size < raw.size() && raw[i + size] >= '0' && raw[i + size] <= '7') {
          ++size;
        }
        coded(raw, i, size, 8, out);
      } else if (c == 'N') {
        fail_at(line_, "a character by name is not supported; write it itself");
      } else if (c != '\n') {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void coded(std::string_view raw, size_t& at, size_t size, int base, std::string& out) const {
    char32_t code = 0;
    for (const size_t end = at + size; at < end; ++at) {
      if (at >= raw.size() || digit_of(raw[at]) >= base) fail_at(line_, "an escape is cut short");
      code = code * static_cast<char32_t>(base) + static_cast<char32_t>(digit_of(raw[at]));
      if (code > 0x10FFFF) fail_at(line_, "an escape is no character");
    }
    if (code >= 0xD800 && code < 0xE000) fail_at(line_, "an escape is no character");
    append_utf8(code, out);
  }

  void symbol(std::string& open) {
    constexpr std::string_view kSymbols[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                             "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                             ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view symbol : kSymbols) {
      if (!starts_with(symbol)) continue;
      if (const size_t which = std::string_view("([{").find(symbol);
          which != std::string_view::npos) {
        if (open.size() == kBracketsMax) fail_at(line_, "it nests brackets too deeply");
        open += ")]}"[which];
      } else if (symbol == ")" || symbol == "]" || symbol == "}") {
        if (open.empty() || open.back() != symbol[0]) {
          fail_at(line_, fmt::format("unexpected {:?}", symbol));
        }
        open.pop_back();
      }
      add(Token::Type::kSymbol, std::string(symbol));
      return move_to(at_ + symbol.size());
    }
    size_t end = at_;
    next_char(text_, end);
    fail_at(line_, fmt::format("unexpected character {:?}", text_.substr(at_, end - at_)));
  }

  std::string source_;
  std::string_view text_;
  size_t at_ = 0;
  uint32_t line_ = 1;
  bool line_starts_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

void fail_at(uint32_t line, const std::string& why) {
  throw Error(ErrorCode::kFormat, fmt::format("line {}: {}", line, why));
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace headrace::engine::jinja
