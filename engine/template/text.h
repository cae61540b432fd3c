// What Python does with text: positions in characters, white space, case, str(), repr() and
// json.dumps(). All text is valid UTF-8.
#pragma once

#include <string>
#include <string_view>

#include "engine/template/value.h"

namespace headrace::engine::jinja {

// Text that grows, counted as it does.
class Sink {
 public:
  explicit Sink(Meter& meter) : meter_(meter) {}
  ~Sink() { meter_.give(2 * text_.size()); }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  Sink& operator+=(std::string_view part) {
    meter_.take(2 * part.size());  // a growing buffer may be twice as large as what it holds
    meter_.step(part.size() / 64);
    text_ += part;
    return *this;
  }
  Sink& operator+=(char c) { return *this += std::string_view(&c, 1); }
  Meter& meter() { return meter_; }
  const std::string& text() const { return text_; }
  std::string release() {
    meter_.give(2 * text_.size());
    return std::exchange(text_, {});
  }
  Value to_value(bool markup = false) { return make_text(&meter_, release(), markup); }

 private:
  Meter& meter_;
  std::string text_;
};

size_t count_characters(std::string_view text);
// The byte where character `index` begins; the end when there are fewer.
size_t byte_of(const Value& text, size_t index);
size_t byte_of(std::string_view text, size_t index);
// As text.find(part, from), in linear time whatever they hold, which is counted.
size_t find_text(std::string_view text, std::string_view part, size_t from, Meter& meter);
size_t find_last_text(std::string_view text, std::string_view part, Meter& meter);

bool is_blank(char32_t c);  // str.isspace
// Without what is blank, or one of the characters of `of`, at its begin and its end; what is looked
// at is counted where there is a meter.
enum class Side : uint8_t { kBoth, kLeft, kRight };
std::string_view strip(std::string_view text, Side side, const std::string* of = nullptr,
                       Meter* meter = nullptr);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false);

enum class LetterClass : uint8_t { kNone, kLower, kUpper, kTitle, kUncased };
LetterClass letter_class(char32_t c);  // kUncased: a letter without case
bool is_decimal(char32_t c);
bool is_digit(char32_t c);  // decimals, and what stands for a digit elsewhere: ², ①
bool is_alphabetic(char32_t c);
bool is_printable(char32_t c);
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);  // str.lower(), with its final sigma
std::string swap_case(std::string_view text);
std::string fold_case(std::string_view text);
std::string to_title(std::string_view text);
std::string capitalize(std::string_view text);
std::string escape(std::string_view text);  // & < > " ' as entities

std::string text_of_int(Int value);
std::string text_of_float(double value);  // repr(float)
void append_str(const Value& value, Sink& out);
void append_repr(const Value& value, Sink& out);
std::string str(const Value& value, Meter& meter);
std::string repr(const Value& value, Meter& meter);
std::string repr_text(std::string_view text);

// Whether the letters of a text that have case, one at least, have this one.
bool has_case(std::string_view text, LetterClass wanted);

struct JsonStyle {
  bool ascii = false, indented = false, sorted = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
void append_json(const Value& value, const JsonStyle& style, Sink& out);

}  // namespace headrace::engine::jinja
