// The methods of texts.
#include <fmt/format.h>

#include <algorithm>

#include "engine/template/interpreter.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

using Views = std::vector<std::string_view>;

std::string_view of(const Value& self) { return self.text(); }

Value texts(Runtime& runtime, const Views& parts, bool markup = false) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const std::string_view part : parts) {
    runtime.meter().step();
    values.push_back(runtime.text(std::string(part), markup));
  }
  return make_list(&runtime.meter(), std::move(values));
}

template <Side kSide>
Value strip_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "strip", {"chars"});
  const bool blanks = given.get(0) == nullptr || given.get(0)->is(Kind::kNone);
  const std::string chars = blanks ? std::string() : given.text(0, "");
  return runtime.text(
      std::string(strip(of(self), kSide, blanks ? nullptr : &chars, &runtime.meter())),
      self.markup());
}

// Up to `most` cuts at white space.
Views split_blanks(std::string_view text, Int most, bool from_right) {
  Views parts;
  text = strip(text, from_right ? Side::kRight : Side::kLeft);
  while (!text.empty()) {
    if (most >= 0 && static_cast<Int>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    size_t cut = from_right ? text.size() : 0, other = cut;
    if (from_right) {
      while (cut > 0) {
        size_t before = cut;
        if (is_blank(previous_char(text, before))) break;
        cut = before;
      }
      parts.push_back(text.substr(cut));
      text = strip(text.substr(0, cut), Side::kRight);
    } else {
      while (cut < text.size()) {
        other = cut;
        if (is_blank(next_char(text, other))) break;
        cut = other;
      }
      parts.push_back(text.substr(0, cut));
      text = strip(text.substr(cut), Side::kLeft);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Views split_at(std::string_view text, std::string_view separator, Int most, bool from_right,
               Meter& meter) {
  Views parts;
  while (most < 0 || static_cast<Int>(parts.size()) < most) {
    const size_t cut =
        from_right ? find_last_text(text, separator, meter) : find_text(text, separator, 0, meter);
    if (cut == std::string_view::npos) break;
    if (from_right) {
      parts.push_back(text.substr(cut + separator.size()));
      text = text.substr(0, cut);
    } else {
      parts.push_back(text.substr(0, cut));
      text = text.substr(cut + separator.size());
    }
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool kRight>
Value split_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "split", {"sep", "maxsplit"});
  const Int most = given.integer(1, -1);
  runtime.meter().step(self.text().size() / 16);
  if (given.get(0) == nullptr || given.get(0)->is(Kind::kNone)) {
    return texts(runtime, split_blanks(of(self), most, kRight), self.markup());
  }
  const std::string separator = given.text(0, "");
  if (separator.empty()) fail("empty separator");
  return texts(runtime, split_at(of(self), separator, most, kRight, runtime.meter()),
               self.markup());
}

template <bool kRight>
Value partition_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "partition", {"sep"}, 1);
  const std::string separator = given.text(0, "");
  if (separator.empty()) fail("empty separator");
  const size_t cut = kRight ? find_last_text(of(self), separator, runtime.meter())
                            : find_text(of(self), separator, 0, runtime.meter());
  Views parts;
  if (cut == std::string_view::npos) {
    parts = kRight ? Views{"", "", of(self)} : Views{of(self), "", ""};
  } else {
    parts = {of(self).substr(0, cut), separator, of(self).substr(cut + separator.size())};
  }
  return make_tuple(&runtime.meter(), texts(runtime, parts).items());
}

// self[start:end] as bytes of the text, the arguments of find and startswith; false: start is
// behind the end.
bool window(Runtime& runtime, const Value& self, const Parameters& given, size_t& begin,
            size_t& end) {
  if (!self.ascii()) runtime.meter().step(self.text().size() / 16);
  const Int size = static_cast<Int>(length(self));
  const auto at = [&](size_t i, Int otherwise) {
    if (given.get(i) == nullptr || given.get(i)->is(Kind::kNone)) return otherwise;
    const Int value = given.integer(i, 0);
    return value < 0 ? std::max(value + size, Int{0}) : value;
  };
  const Int first = at(1, 0), last = std::min(at(2, size), size);
  if (first > size || first > last) return false;
  begin = byte_of(self, static_cast<size_t>(first));
  end = byte_of(self, static_cast<size_t>(last));
  return true;
}

template <bool kEnd>
Value edge_method(Runtime& runtime, const Value& self, Arguments& a) {
  const char* name = kEnd ? "endswith" : "startswith";
  Parameters given(a, name, {"prefix", "start", "end"}, 1);
  const Value& what = *given.get(0);
  size_t begin = 0, end = 0;
  const bool inside = window(runtime, self, given, begin, end);
  const std::string_view part = inside ? of(self).substr(begin, end - begin) : std::string_view();
  const auto matches = [&](const Value& edge) {
    runtime.meter().step();
    runtime.count_given(edge);
    if (edge.is(Kind::kUndefined)) fail_undefined(edge);
    if (!edge.is(Kind::kText)) {
      fail_type(
          fmt::format("{} first arg must be str or a tuple of str, not {}", name, type_name(edge)));
    }
    return inside && (kEnd ? part.ends_with(edge.text()) : part.starts_with(edge.text()));
  };
  if (!what.is(Kind::kTuple)) return Value(matches(what));
  bool any = false;
  for (const Value& each : what.items()) any |= matches(each);
  return Value(any);
}

template <bool kRight, bool kRaises>
Value find_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "find", {"sub", "start", "end"}, 1);
  const std::string sub = given.text(0, "");
  runtime.meter().step(self.text().size() / 16);
  size_t begin = 0, end = 0;
  size_t at = std::string_view::npos;
  if (window(runtime, self, given, begin, end)) {
    const std::string_view part = of(self).substr(0, end);
    at = kRight ? find_last_text(part, sub, runtime.meter())
                : find_text(part, sub, begin, runtime.meter());
    if (kRight && at != std::string_view::npos && at < begin) at = std::string_view::npos;
  }
  if (at == std::string_view::npos) {
    if (kRaises) fail("substring not found");
    return Value(Int{-1});
  }
  return Value(static_cast<Int>(count_characters(of(self).substr(0, at))));
}

Value count_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "count", {"sub", "start", "end"}, 1);
  const std::string sub = given.text(0, "");
  runtime.meter().step(self.text().size() / 16);
  size_t begin = 0, end = 0;
  if (!window(runtime, self, given, begin, end)) return Value(Int{0});
  const std::string_view part = of(self).substr(0, end);
  if (sub.empty()) return Value(static_cast<Int>(count_characters(part.substr(begin)) + 1));
  Int count = 0;
  for (size_t at = find_text(part, sub, begin, runtime.meter()); at != std::string_view::npos;
       at = find_text(part, sub, at + sub.size(), runtime.meter())) {
    ++count;
  }
  return Value(count);
}

Value replace_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "replace", {"old", "new", "count"}, 2);
  return replace_in(runtime, self, given.text(0, ""), given.text(1, ""), given.integer(2, -1));
}

Value join_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "join", {"iterable"}, 1);
  Sink out(runtime.meter());
  Cursor cursor(*given.get(0), runtime.meter());
  bool first = true;
  Int at = 0;
  for (Value item; cursor.next(item); ++at) {
    if (!item.is(Kind::kText)) {
      fail_type(
          fmt::format("sequence item {}: expected str instance, {} found", at, type_name(item)));
    }
    if (!first) out += self.text();
    first = false;
    out += item.text();
  }
  return out.to_value(self.markup());
}

enum class Place : uint8_t { kLeft, kRight, kCenter };

template <Place kPlace>
Value pad_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "ljust", {"width", "fillchar"}, 1);
  const std::string fill = given.text(1, " ");
  if (count_characters(fill) != 1)
    fail_type("The fill character must be exactly one character long");
  return pad_text(runtime, self, given.integer(0, 0), fill,
                  kPlace == Place::kCenter ? 0
                  : kPlace == Place::kLeft ? 1
                                           : -1);
}

Value zfill_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "zfill", {"width"}, 1);
  const Int missing = given.integer(0, 0) - static_cast<Int>(length(self));
  if (missing <= 0) return runtime.text(self.text());
  if (missing > (Int{1} << 28)) fail("a text is padded too far");
  runtime.meter().step(static_cast<uint64_t>(missing) / 16);
  const bool sign = self.text().starts_with('+') || self.text().starts_with('-');
  Sink out(runtime.meter());
  if (sign) out += self.text()[0];
  for (Int i = 0; i < missing; ++i) out += '0';
  out += of(self).substr(sign ? 1 : 0);
  return out.to_value();
}

Value lines_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "splitlines", {"keepends"});
  runtime.meter().step(self.text().size() / 16);
  return texts(runtime, split_lines(of(self), given.flag(0, false)), self.markup());
}

template <bool kSuffix>
Value remove_edge_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "removeprefix", {"prefix"}, 1);
  const std::string edge = given.text(0, "");
  std::string_view text = of(self);
  if (kSuffix ? text.ends_with(edge) : text.starts_with(edge)) {
    text = kSuffix ? text.substr(0, text.size() - edge.size()) : text.substr(edge.size());
  }
  return runtime.text(std::string(text));
}

template <std::string (*kMap)(std::string_view)>
Value map_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "lower", {});
  runtime.meter().step(1 + self.text().size() / 4);
  return runtime.text(kMap(of(self)), self.markup());
}

template <bool (*kHolds)(char32_t)>
Value all_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "isalnum", {});
  runtime.meter().step(1 + self.text().size() / 16);
  bool all = !self.text().empty();
  for (size_t at = 0; at < self.text().size() && all;) all = kHolds(next_char(self.text(), at));
  return Value(all);
}

bool alphanumeric(char32_t c) { return is_alphabetic(c) || is_numeric(c); }

template <LetterClass kWanted>
Value case_method(Runtime& runtime, const Value& self, Arguments& a) {
  Parameters given(a, "islower", {});
  runtime.meter().step(1 + self.text().size() / 16);
  return Value(has_case(of(self), kWanted));
}

Value ascii_method(Runtime&, const Value& self, Arguments&) { return Value(self.ascii()); }

Value title_test(Runtime& runtime, const Value& self, Arguments&) {
  runtime.meter().step(self.text().size() / 16);
  bool any = false, inside = false;
  for (size_t at = 0; at < self.text().size();) {
    const LetterClass which = letter_class(next_char(self.text(), at));
    const bool upper = which == LetterClass::kUpper || which == LetterClass::kTitle;
    const bool lower = which == LetterClass::kLower;
    if ((upper && inside) || (lower && !inside)) return Value(false);
    any |= upper || lower;
    inside = upper || lower;
  }
  return Value(any);
}

Value format_method(Runtime& runtime, const Value& self, Arguments& a) {
  return format_braces(runtime, self.text(), a);
}

constexpr std::pair<const char*, Method> kMethods[] = {
    {"capitalize", map_method<capitalize>},
    {"casefold", map_method<fold_case>},
    {"center", pad_method<Place::kCenter>},
    {"count", count_method},
    {"endswith", edge_method<true>},
    {"find", find_method<false, false>},
    {"format", format_method},
    {"index", find_method<false, true>},
    {"isalnum", all_method<alphanumeric>},
    {"isalpha", all_method<is_alphabetic>},
    {"isascii", ascii_method},
    {"isdecimal", all_method<is_decimal>},
    {"isdigit", all_method<is_digit>},
    {"islower", case_method<LetterClass::kLower>},
    {"isnumeric", all_method<is_numeric>},
    {"isspace", all_method<is_blank>},
    {"istitle", title_test},
    {"isupper", case_method<LetterClass::kUpper>},
    {"join", join_method},
    {"ljust", pad_method<Place::kLeft>},
    {"lower", map_method<to_lower>},
    {"lstrip", strip_method<Side::kLeft>},
    {"partition", partition_method<false>},
    {"removeprefix", remove_edge_method<false>},
    {"removesuffix", remove_edge_method<true>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", pad_method<Place::kRight>},
    {"rpartition", partition_method<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<Side::kRight>},
    {"split", split_method<false>},
    {"splitlines", lines_method},
    {"startswith", edge_method<false>},
    {"strip", strip_method<Side::kBoth>},
    {"swapcase", map_method<swap_case>},
    {"title", map_method<to_title>},
    {"upper", map_method<to_upper>},
    {"zfill", zfill_method},
};

}  // namespace

Method text_method(const std::string& name) {
  for (const auto& [known, function] : kMethods) {
    if (name == known) return function;
  }
  return nullptr;
}

}  // namespace headrace::engine::jinja
