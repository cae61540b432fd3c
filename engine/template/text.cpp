#include "engine/template/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/template/special_case.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// Upper case of one character, several for some.
void append_upper(char32_t c, bool title, std::string& out) {
  if (const std::string special = special_case(c, title); !special.empty()) {
    out += special;
    return;
  }
  const auto code = static_cast<utf8proc_int32_t>(c);
  append_utf8(static_cast<char32_t>(title ? utf8proc_totitle(code) : utf8proc_toupper(code)), out);
}

bool is_cased(char32_t c) {
  const LetterClass which = letter_class(c);
  return which == LetterClass::kLower || which == LetterClass::kUpper ||
         which == LetterClass::kTitle;
}

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2018 || c == 0x2019 ||
             c == 0x2024 || c == 0x2027;
  }
}

// A capital sigma at `at` of `size` bytes ends a word: a cased letter before it, none behind.
bool ends_word(std::string_view text, size_t at, size_t size) {
  bool before = false;
  for (size_t i = at; i > 0;) {
    const char32_t c = previous_char(text, i);
    if (is_case_ignorable(c)) continue;
    before = is_cased(c);
    break;
  }
  if (!before) return false;
  for (size_t i = at + size; i < text.size();) {
    const char32_t c = next_char(text, i);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

void append_lower(std::string_view text, size_t at, size_t size, std::string& out) {
  const std::string_view one = text.substr(at, size);
  if (one == "\xCE\xA3" && ends_word(text, at, size)) {
    out += "\xCF\x82";
  } else {
    out += to_lowercase(one);
  }
}

}  // namespace

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0U) != 0x80U; }));
}

size_t byte_of(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) next_char(text, at);
  return at;
}

size_t byte_of(const Value& text, size_t index) {
  return text.ascii() ? std::min(index, text.text().size()) : byte_of(text.text(), index);
}

size_t find_text(std::string_view text, std::string_view part, size_t from, Meter& meter) {
  meter.step();
  if (from > text.size() || part.size() > text.size() - from) return std::string_view::npos;
  if (part.size() < 32) {
    const size_t found = text.find(part, from);
    meter.step((std::min(found, text.size()) - from) / 16);
    return found;
  }
  // The library's search takes the product of both sizes on repetitive texts: Knuth, Morris, Pratt.
  meter.step(part.size() / 8);
  const Bytes table = (part.size() + 1) * sizeof(uint32_t);
  meter.take(table);
  meter.give(table);
  std::vector<uint32_t> border(part.size() + 1, 0);
  size_t k = 0;
  for (size_t i = 1; i < part.size(); ++i) {
    while (k > 0 && part[i] != part[k]) k = border[k];
    if (part[i] == part[k]) ++k;
    border[i + 1] = static_cast<uint32_t>(k);
  }
  k = 0;
  size_t i = from;
  for (; i < text.size() && k < part.size(); ++i) {
    while (k > 0 && text[i] != part[k]) k = border[k];
    if (text[i] == part[k]) ++k;
  }
  meter.step((i - from) / 16);
  return k == part.size() ? i - k : std::string_view::npos;
}

size_t find_last_text(std::string_view text, std::string_view part, Meter& meter) {
  if (part.size() < 32) {
    const size_t found = text.rfind(part);
    meter.step(1 + (text.size() - (found == std::string_view::npos ? 0 : found)) / 16);
    return found;
  }
  meter.step(text.size() / 16);
  meter.take(text.size() + part.size());
  meter.give(text.size() + part.size());
  const std::string backwards(text.rbegin(), text.rend()), wanted(part.rbegin(), part.rend());
  const size_t at = find_text(backwards, wanted, 0, meter);
  return at == std::string::npos ? at : text.size() - at - part.size();
}

bool is_blank(char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string_view strip(std::string_view text, Side side, const std::string* of, Meter* meter) {
  const auto goes = [&](char32_t c, std::string_view bytes) {
    if (meter != nullptr) meter->step(1 + (of == nullptr ? 0 : of->size() / 16));
    return of == nullptr ? is_blank(c) : of->find(bytes) != std::string::npos;
  };
  size_t begin = 0, end = text.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    const char32_t c = next_char(text, next);
    if (!goes(c, text.substr(begin, next - begin))) break;
    begin = next;
  }
  while (side != Side::kLeft && end > begin) {
    size_t before = end;
    const char32_t c = previous_char(text, before);
    if (!goes(c, text.substr(before, end - before))) break;
    end = before;
  }
  return text.substr(begin, end - begin);
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_char(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

LetterClass letter_class(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_LL:
      return LetterClass::kLower;
    case UTF8PROC_CATEGORY_LU:
      return LetterClass::kUpper;
    case UTF8PROC_CATEGORY_LT:
      return LetterClass::kTitle;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      // Modifier letters, ordinals and small capitals that Unicode counts among the lower case.
      return c == 0xAA || c == 0xBA || (c >= 0x2B0 && c <= 0x2B8) || (c >= 0x2E0 && c <= 0x2E4)
                 ? LetterClass::kLower
                 : LetterClass::kUncased;
    default:
      if ((c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF)) return LetterClass::kUpper;
      if ((c >= 0x2170 && c <= 0x217F) || (c >= 0x24D0 && c <= 0x24E9)) return LetterClass::kLower;
      return LetterClass::kNone;
  }
}

bool is_alphabetic(char32_t c) {
  const auto which = category(c);
  return which >= UTF8PROC_CATEGORY_LU && which <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

bool is_digit(char32_t c) {
  // Numeric_Type=Digit of Unicode, which utf8proc leaves out.
  constexpr std::pair<char32_t, char32_t> kDigits[] = {
      {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
      {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
      {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
      {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
      {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
  return is_decimal(c) ||
         std::any_of(std::begin(kDigits), std::end(kDigits),
                     [&](const auto& range) { return c >= range.first && c <= range.second; });
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool has_case(std::string_view text, LetterClass wanted) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_char(text, at);
    if (!is_cased(c)) continue;
    if (letter_class(c) != wanted) return false;
    any = true;
  }
  return any;
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_upper(next_char(text, at), false, out);
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    next_char(text, at);
    append_lower(text, begin, at - begin, out);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    const LetterClass which = letter_class(c);
    if (which == LetterClass::kUpper) {
      append_lower(text, begin, at - begin, out);
    } else if (which == LetterClass::kLower) {
      append_upper(c, false, out);
    } else {
      out += text.substr(begin, at - begin);
    }
  }
  return out;
}

std::string fold_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t folded[8];
    int bounds = 0;
    const auto c = static_cast<utf8proc_int32_t>(next_char(text, at));
    const auto count = utf8proc_decompose_char(c, folded, 8, UTF8PROC_CASEFOLD, &bounds);
    for (utf8proc_ssize_t i = 0; i < count && i < 8; ++i) {
      append_utf8(static_cast<char32_t>(folded[i]), out);
    }
  }
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (inside) {
      append_lower(text, begin, at - begin, out);
    } else {
      append_upper(c, true, out);
    }
    inside = is_cased(c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (begin == 0) {
      append_upper(c, true, out);
    } else {
      append_lower(text, begin, at - begin, out);
    }
  }
  return out;
}

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&#34;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace headrace::engine::jinja
