// Filters on single values: texts, numbers, defaults, JSON.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/template/interpreter.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

// What soft_str makes of a value: texts stay what they are.
Value as_text(Runtime& runtime, const Value& input) {
  return input.is(Kind::kText) ? input : runtime.text(str(input, runtime.meter()));
}

template <std::string (*kMap)(std::string_view)>
Value map_text(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "filter", {});
  const Value text = as_text(runtime, input);
  runtime.meter().step(text.text().size() / 4);
  return runtime.text(kMap(text.text()), text.markup());
}

// Words begin behind blanks, hyphens and opening brackets.
std::string title_words(std::string_view text) {
  std::string out;
  size_t begin = 0;
  const auto word = [&](size_t end) {
    const std::string_view part = text.substr(begin, end - begin);
    if (part.empty()) return;
    const size_t first = byte_of(part, 1);
    out += to_upper(part.substr(0, first)) + to_lower(part.substr(first));
  };
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const char32_t c = next_char(text, at);
    if (!is_blank(c) && std::u32string_view(U"-([{<").find(c) == std::u32string_view::npos)
      continue;
    word(here);
    out += text.substr(here, at - here);
    begin = at;
  }
  word(text.size());
  return out;
}

Value trim(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "trim", {"chars"});
  const Value text = as_text(runtime, input);
  const bool blanks = given.get(0) == nullptr || given.get(0)->is(Kind::kNone);
  const std::string chars = blanks ? std::string() : given.text(0, "");
  return runtime.text(
      std::string(strip(text.text(), Side::kBoth, blanks ? nullptr : &chars, &runtime.meter())),
      text.markup());
}

Value string(Runtime& runtime, const Value& input, Arguments&) { return as_text(runtime, input); }

Value safe(Runtime& runtime, const Value& input, Arguments&) {
  return runtime.text(str(input, runtime.meter()), true);
}

Value escaped(Runtime& runtime, const Value& input, Arguments&) {
  if (input.markup()) return input;
  return runtime.text(escape(str(input, runtime.meter())), true);
}

Value force_escaped(Runtime& runtime, const Value& input, Arguments&) {
  return runtime.text(escape(str(input, runtime.meter())), true);
}

Value replace(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "replace", {"old", "new", "count"}, 2);
  const Int most =
      given.get(2) != nullptr && !given.get(2)->is(Kind::kNone) ? given.integer(2, -1) : Int{-1};
  const Value text = runtime.text(str(input, runtime.meter()));
  return replace_in(runtime, text, str(*given.get(0), runtime.meter()),
                    str(*given.get(1), runtime.meter()), most);
}

Value center(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "center", {"width"});
  return pad_text(runtime, as_text(runtime, input), given.integer(0, 80), " ", 0);
}

Value indent(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "indent", {"width", "first", "blank"});
  const bool by_text = given.get(0) != nullptr && given.get(0)->is(Kind::kText);
  const Int width = by_text ? Int{0} : given.integer(0, 4);
  if (width > 100'000) fail("an indentation is too wide");
  const std::string pad =
      by_text ? given.text(0, "") : std::string(static_cast<size_t>(std::max(width, Int{0})), ' ');
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (!input.is(Kind::kText)) {
    fail_type(fmt::format("unsupported operand type(s) for +=: '{}' and 'str'", type_name(input)));
  }
  runtime.meter().step(input.text().size() / 16);
  const std::string text = input.text() + "\n";
  Sink out(runtime.meter());
  if (given.flag(1, false)) out += pad;
  bool first = true;
  for (const std::string_view line : split_lines(text)) {
    runtime.meter().step();
    if (!first) out += '\n';
    if (!first && (!line.empty() || given.flag(2, false))) out += pad;
    first = false;
    out += line;
  }
  return out.to_value(input.markup());
}

Value truncate(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "truncate", {"length", "killwords", "end", "leeway"});
  const Int most = given.integer(0, 255);
  const bool leeway_given = given.get(3) != nullptr && !given.get(3)->is(Kind::kNone);
  const Int leeway = leeway_given ? given.integer(3, 5) : Int{5};
  const std::string end = given.text(2, "...");
  const Int end_size = static_cast<Int>(count_characters(end));
  if (most < end_size) fail(fmt::format("expected length >= {}, got {}", end_size, most));
  if (leeway < 0) fail(fmt::format("expected leeway >= 0, got {}", leeway));
  if (static_cast<Int>(length(input)) <= most + leeway) return input;
  if (!input.is(Kind::kText)) {
    fail_type(fmt::format("'{}' object cannot be truncated", type_name(input)));
  }
  const Value& text = input;
  runtime.meter().step(text.text().size() / 16);
  std::string_view kept =
      std::string_view(text.text()).substr(0, byte_of(text, static_cast<size_t>(most - end_size)));
  if (!given.flag(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return runtime.text(std::string(kept) + end);
}

Value default_value(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "default", {"default_value", "boolean"});
  const bool missing = input.is(Kind::kUndefined) || (given.flag(1, false) && !truth(input));
  if (!missing) return input;
  return given.get(0) != nullptr ? *given.get(0) : runtime.text("");
}

// int(text, base) of Python; false where it is no number.
bool parse_int(std::string_view text, Int base, Int& out) {
  text = strip(text, Side::kBoth);
  const bool minus = text.starts_with('-');
  if (minus || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    const Int named = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (named != 0 && (base == named || base == 0)) {
      text.remove_prefix(2);
      base = named;
      if (text.starts_with('_')) text.remove_prefix(1);
    }
  }
  if (base == 0) base = 10;
  if (text.empty() || text.front() == '_' || text.back() == '_') return false;
  out = 0;
  char before = ' ';
  for (const char c : text) {
    if (c == '_' && std::exchange(before, c) != '_') continue;
    before = c;
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                               : 99;
    if (digit >= base) return false;
    if (out >> 114 != 0) fail("a number exceeds 120 bits");
    out = out * base + digit;
  }
  if (minus) out = -out;
  return true;
}

bool parse_float(std::string_view text, double& out) {
  text = strip(text, Side::kBoth);
  std::string plain(text);
  std::erase(plain, '_');
  std::string_view digits = plain;
  const bool minus = digits.starts_with('-');
  if (minus || digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.empty() || digits.front() == '-' || digits.front() == '+') return false;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  if (read.ptr != digits.data() + digits.size() || read.ec == std::errc::invalid_argument) {
    return false;
  }
  if (read.ec == std::errc::result_out_of_range)
    out = digits.find("e-") != std::string_view::npos ? 0.0 : HUGE_VAL;
  if (minus) out = -out;
  return true;
}

bool whole(double value, Int& out) {
  if (!std::isfinite(value)) return false;
  if (std::abs(value) > 1e36) fail("a number exceeds 120 bits");
  out = static_cast<Int>(value);
  return true;
}

Value to_int(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "int", {"default", "base"});
  const Value otherwise = given.get(0) != nullptr ? *given.get(0) : Value(Int{0});
  Int out = 0;
  double real = 0;
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (input.is_integer()) return Value(input.integer());
  if (input.is(Kind::kFloat)) return whole(input.real(), out) ? Value(out) : otherwise;
  if (!input.is(Kind::kText)) return otherwise;
  runtime.meter().step(input.text().size() / 16);
  if (parse_int(input.text(), given.integer(1, 10), out)) return Value(out);
  return parse_float(input.text(), real) && whole(real, out) ? Value(out) : otherwise;
}

Value to_float(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "float", {"default"});
  if (input.is(Kind::kText)) runtime.meter().step(input.text().size() / 16);
  double real = 0;
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (input.is_number()) return Value(input.real());
  if (input.is(Kind::kText) && parse_float(input.text(), real)) return Value(real);
  return given.get(0) != nullptr ? *given.get(0) : Value(0.0);
}

Value absolute(Runtime& runtime, const Value& input, Arguments&) {
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (!input.is_number())
    fail_type(fmt::format("bad operand type for abs(): '{}'", type_name(input)));
  if (input.is(Kind::kFloat)) return Value(std::abs(input.real()));
  return input.integer() < 0 ? negative(runtime, input) : Value(input.integer());
}

// Half to even on the decimal digits that the number has exactly, as Python's round().
Value round_number(Runtime&, const Value& input, Arguments& a) {
  Parameters given(a, "round", {"precision", "method"});
  const Int precision = given.integer(0, 0);
  const std::string how = given.text(1, "common");
  if (how != "common" && how != "ceil" && how != "floor") {
    fail("method must be common, ceil or floor");
  }
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (!input.is_number())
    fail_type(fmt::format("type {} doesn't define __round__ method", type_name(input)));
  if (precision > 300 || precision < -300) fail("a precision is out of range");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (how != "common") {
    const double scaled = input.real() * scale;
    return Value((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  if (input.is_integer()) {
    if (precision >= 0) return Value(input.integer());
    fail("rounding whole numbers to tens is not supported");
  }
  if (!std::isfinite(input.real())) return input;
  if (precision < 0) return Value(std::nearbyint(input.real() * scale) / scale);
  const std::string digits = fmt::format("{:.{}f}", input.real(), static_cast<int>(precision));
  double out = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return Value(out);
}

Value to_json(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = given.flag(0, false);
  style.sorted = given.flag(3, false);
  if (given.get(1) != nullptr && !given.get(1)->is(Kind::kNone)) {
    style.indented = true;
    style.item_separator = ",";
    if (given.get(1)->is(Kind::kText)) {
      style.indent = given.text(1, "");
    } else {
      const Int width = std::max(given.integer(1, 0), Int{0});
      if (width > 1000) fail("an indentation is too wide");
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (given.get(2) != nullptr && !given.get(2)->is(Kind::kNone)) {
    const std::vector<Value> both = collect(*given.get(2), runtime.meter());
    if (both.size() != 2 || !both[0].is(Kind::kText) || !both[1].is(Kind::kText)) {
      fail("separators must be two texts");
    }
    style.item_separator = both[0].text();
    style.key_separator = both[1].text();
  }
  Sink out(runtime.meter());
  append_json(input, style, out);
  return out.to_value();
}

Value from_json_text(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "from_json", {});
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (!input.is(Kind::kText)) {
    fail_type(fmt::format("the JSON object must be str, not {}", type_name(input)));
  }
  const Bytes size = input.text().size();
  runtime.meter().step(1 + size / 8);
  runtime.meter().take(16 * size);  // the tree of the parser
  const json::value tree = parse_json(input.text(), "from_json", {.bytes_max = 8 * kMiB});
  Value value = from_json(&runtime.meter(), tree);
  runtime.meter().give(16 * size);
  return value;
}

Value format(Runtime& runtime, const Value& input, Arguments& a) {
  if (!a.named.empty() && !a.positional.empty()) {
    fail_type("can't handle positional and keyword arguments at the same time");
  }
  const std::string text = str(input, runtime.meter());
  if (a.named.empty()) {
    return format_percent(runtime, text, make_tuple(&runtime.meter(), std::move(a.positional)));
  }
  std::vector<Pair> pairs;
  for (auto& [name, value] : a.named) pairs.emplace_back(runtime.text(name), std::move(value));
  return format_percent(runtime, text, make_dict(&runtime.meter(), std::move(pairs)));
}

Value word_count(Runtime& runtime, const Value& input, Arguments&) {
  const std::string text = str(input, runtime.meter());
  Int count = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_char(text, at);
    const bool word = c == '_' || is_alphabetic(c) || is_numeric(c);
    count += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value(count);
}

// A text for a path, or for a query, where a space is a plus and a slash is no separator.
void append_quoted(const std::string& text, bool query, Sink& out) {
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (plain || std::string_view("_.-~").find(c) != std::string_view::npos) {
      out += c;
    } else if (c == (query ? ' ' : '/')) {
      out += query ? '+' : '/';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<uint8_t>(c)));
    }
  }
}

Value url_encoded(Runtime& runtime, const Value& input, Arguments&) {
  Sink out(runtime.meter());
  if (input.is(Kind::kText) || !iterable(input)) {
    append_quoted(str(input, runtime.meter()), false, out);
    return out.to_value();
  }
  const Value pairs =
      input.is(Kind::kDict)
          ? Value(Kind::kView, std::make_shared<View>(&runtime.meter(), input, View::What::kItems))
          : input;
  Cursor cursor(pairs, runtime.meter());
  bool first = true;
  for (Value item; cursor.next(item); first = false) {
    const std::vector<Value> both = collect(item, runtime.meter());
    if (both.size() != 2) fail("urlencode takes pairs");
    if (!first) out += '&';
    append_quoted(str(both[0], runtime.meter()), true, out);
    out += '=';
    append_quoted(str(both[1], runtime.meter()), true, out);
  }
  return out.to_value();
}

constexpr std::pair<const char*, Filter> kFilters[] = {
    {"abs", absolute},
    {"capitalize", map_text<capitalize>},
    {"center", center},
    {"d", default_value},
    {"default", default_value},
    {"e", escaped},
    {"escape", escaped},
    {"float", to_float},
    {"forceescape", force_escaped},
    {"format", format},
    {"from_json", from_json_text},
    {"indent", indent},
    {"int", to_int},
    {"lower", map_text<to_lower>},
    {"replace", replace},
    {"round", round_number},
    {"safe", safe},
    {"string", string},
    {"title", map_text<title_words>},
    {"tojson", to_json},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", map_text<to_upper>},
    {"urlencode", url_encoded},
    {"wordcount", word_count},
};

}  // namespace

Filter find_filter(const std::string& name) {
  for (const auto& [known, function] : kFilters) {
    if (name == known) return function;
  }
  return nullptr;
}

Value replace_in(Runtime& runtime, const Value& text, const std::string& old,
                 const std::string& with, Int most) {
  const std::string_view from = text.text();
  runtime.meter().step(1 + from.size() / 16);
  Sink out(runtime.meter());
  size_t done = 0;
  if (old.empty()) {  // before every character and at the end
    for (size_t at = 0; most != 0 && at <= from.size(); --most) {
      runtime.meter().step();
      out += with;
      if (at == from.size()) break;
      next_char(from, at);
      out += from.substr(done, at - done);
      done = at;
    }
  } else {
    for (size_t at = 0; most != 0; --most) {
      at = find_text(from, old, done, runtime.meter());
      if (at == std::string_view::npos) break;
      out += from.substr(done, at - done);
      out += with;
      done = at + old.size();
    }
  }
  out += from.substr(done);
  return out.to_value(text.markup());
}

Value pad_text(Runtime& runtime, const Value& text, Int width, const std::string& fill, int side) {
  const Int missing = width - static_cast<Int>(length(text));
  if (missing <= 0) return text;
  if (missing > (Int{1} << 28)) fail("a text is padded too far");
  runtime.meter().step(static_cast<uint64_t>(missing) / 16);
  // Where both sides cannot be equal, an odd width puts more to the left.
  const Int left = side > 0 ? 0 : side < 0 ? missing : missing / 2 + (missing & width & 1);
  Sink out(runtime.meter());
  for (Int i = 0; i < left; ++i) out += fill;
  out += text.text();
  for (Int i = left; i < missing; ++i) out += fill;
  return out.to_value(text.markup());
}

}  // namespace headrace::engine::jinja
