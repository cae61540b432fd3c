#include "engine/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "engine/tokenizer/unicode_versions.h"

namespace headrace::engine {
namespace {

enum class Form : uint8_t { kValid, kInvalid, kCut };
struct Sequence {
  size_t size;
  Form form;
};

// The UTF-8 sequence at the begin of `bytes` (not empty), or the maximal part of one that is
// ill-formed, or what there is of one that the end of `bytes` cuts.
Sequence sequence_at(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {1, Form::kValid};
  if (lead < 0xC2 || lead > 0xF4) return {1, Form::kInvalid};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Overlong forms, surrogates and values above U+10FFFF show in the second byte.
  const uint8_t least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < size; ++i) {
    if (i == bytes.size()) return {i, Form::kCut};
    const uint8_t low = i == 1 ? least : 0x80;
    const uint8_t high = i == 1 ? most : 0xBF;
    if (at(i) < low || at(i) > high) return {i, Form::kInvalid};
  }
  return {size, Form::kValid};
}

// GPT-2's table: printable Latin-1 characters stand for themselves, the other 68 bytes for
// U+0100 and up in order.
struct ByteAlphabet {
  std::array<uint16_t, 256> char_of{};
  std::array<int16_t, 512> byte_of{};

  constexpr ByteAlphabet() {
    for (auto& b : byte_of) b = -1;
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      const uint16_t c = printable ? static_cast<uint16_t>(b) : next++;
      char_of[static_cast<size_t>(b)] = c;
      byte_of[c] = static_cast<int16_t>(b);
    }
  }
};
constexpr ByteAlphabet kAlphabet;

// Canonical ordering: combining marks between two starters in the order of their classes. A stable
// sort per run keeps a hostile run of a million marks at n log n.
void order_marks(std::vector<utf8proc_int32_t>& chars) {
  const auto class_of = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (size_t begin = 0; begin < chars.size();) {
    if (class_of(chars[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < chars.size() && class_of(chars[end]) != 0) ++end;
    std::stable_sort(chars.begin() + static_cast<ptrdiff_t>(begin),
                     chars.begin() + static_cast<ptrdiff_t>(end),
                     [&](auto a, auto b) { return class_of(a) < class_of(b); });
    begin = end;
  }
}

std::vector<utf8proc_int32_t> decompose(std::string_view text, bool compatibility) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text.size());
  std::array<utf8proc_int32_t, 64> parts{};  // the longest decomposition has 18 characters
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<utf8proc_int32_t>(next_char(text, at));
    int boundary = 0;
    const auto count = utf8proc_decompose_char(c, parts.data(), parts.size(), options, &boundary);
    HEADRACE_ASSERT(count >= 0 && static_cast<size_t>(count) <= parts.size());
    chars.insert(chars.end(), parts.begin(), parts.begin() + count);
  }
  return chars;
}

void normalize(std::string_view text, NormalForm form, std::string& out) {
  auto chars = decompose(text, form == NormalForm::kNfkc || form == NormalForm::kNfkd);
  order_marks(chars);
  auto count = static_cast<utf8proc_ssize_t>(chars.size());
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    count = utf8proc_normalize_utf32(
        chars.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    HEADRACE_ASSERT(count >= 0);
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(static_cast<char32_t>(chars[static_cast<size_t>(i)]), out);
  }
}

}  // namespace

char32_t next_char(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return ++at, lead;
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  HEADRACE_DEBUG_ASSERT(at + size <= text.size());
  char32_t c = lead & (0xFFU >> (size + 1));
  for (size_t i = 1; i < size; ++i) c = (c << 6) | (byte(i) & 0x3FU);
  at += size;
  return c;
}

char32_t previous_char(std::string_view text, size_t& end) {
  HEADRACE_DEBUG_ASSERT(end > 0);
  do --end;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0U) == 0x80U);
  size_t at = end;
  return next_char(text, at);
}

void append_utf8(char32_t c, std::string& out) {
  const auto add = [&](char32_t value) { out.push_back(static_cast<char>(value)); };
  if (c < 0x80) return add(c);
  if (c < 0x800) {
    add(0xC0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      add(0xE0 | (c >> 12));
    } else {
      add(0xF0 | (c >> 18));
      add(0x80 | ((c >> 12) & 0x3F));
    }
    add(0x80 | ((c >> 6) & 0x3F));
  }
  add(0x80 | (c & 0x3F));
}

void LossyUtf8::push(std::string_view bytes, std::string& out) {
  std::string joined;
  if (!pending_.empty()) {
    joined = pending_.append(bytes);
    bytes = joined;
    pending_.clear();
  }
  while (!bytes.empty()) {
    const Sequence sequence = sequence_at(bytes);
    if (sequence.form == Form::kCut) {
      pending_.assign(bytes);
      return;
    }
    out += sequence.form == Form::kValid ? bytes.substr(0, sequence.size) : kReplacementText;
    bytes.remove_prefix(sequence.size);
  }
}

void LossyUtf8::finish(std::string& out) {
  if (!pending_.empty()) out += kReplacementText;
  pending_.clear();
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Sequence sequence = sequence_at(bytes);
    if (sequence.form != Form::kValid) return false;
    bytes.remove_prefix(sequence.size);
  }
  return true;
}

std::string_view to_utf8(std::string_view bytes, std::string& storage) {
  if (is_utf8(bytes)) return bytes;
  storage.clear();
  LossyUtf8 repair;
  repair.push(bytes, storage);
  repair.finish(storage);
  return storage;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  c = stand_in(c);
  // Alphabetic but not a letter or mark: circled and squared Latin letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  if (c == 0x200C || c == 0x200D) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_numeric(char32_t c) {
  // Rust's own classes are of Unicode 17, which added these numbers.
  if ((c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6)) return true;
  c = stand_in(c);
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
           (c >= 0x7B && c <= 0x7E);
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  const bool known = category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
  return known != differs_in_punctuation(c);
}

std::string to_normal_form(std::string_view text, NormalForm form) {
  const bool ascii =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  if (ascii) return std::string(text);
  std::string out;
  out.reserve(text.size());
  // Nothing reorders across or composes with an inert character, so the text falls apart there.
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t before = at;
    if (!is_inert(next_char(text, at))) continue;
    normalize(text.substr(begin, before - begin), form, out);
    out += text.substr(before, at - before);
    begin = at;
  }
  normalize(text.substr(begin), form, out);
  return out;
}

std::string to_lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_char(text, at);
    if (c == 0x130) {  // the only character whose full lower case is two: i with a dot above
      out += "i\xCC\x87";
    } else {
      const char32_t later = later_lowercase(c);
      const int32_t lower = utf8proc_tolower(static_cast<utf8proc_int32_t>(c));
      append_utf8(later != 0 ? later : static_cast<char32_t>(lower), out);
    }
  }
  return out;
}

char32_t char_of_byte(uint8_t byte) { return kAlphabet.char_of[byte]; }

int byte_of_char(char32_t c) { return c < kAlphabet.byte_of.size() ? kAlphabet.byte_of[c] : -1; }

}  // namespace headrace::engine
