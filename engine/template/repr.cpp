// str(), repr() and json.dumps().
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/template/text.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

void append_items(const std::vector<Value>& items, std::string_view open, std::string_view close,
                  Sink& out) {
  out += open;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(items[i], out);
  }
  out += close;
}

void append_dict(const Dict& dict, Sink& out) {
  out += "{";
  bool first = true;
  for (const auto& [key, value] : dict.pairs) {
    if (!first) out += ", ";
    first = false;
    append_repr(key, out);
    out += ": ";
    append_repr(value, out);
  }
  out += "}";
}

void append_range(const Range& range, Sink& out) {
  out += fmt::format("range({}, {}", range.start, range.stop);
  if (range.step != 1) out += fmt::format(", {}", range.step);
  out += ")";
}

void append_json_text(std::string_view text, bool ascii, Sink& out) {
  out.meter().step(text.size() / 16);
  std::string part = "\"";
  const auto unit = [&](uint32_t code) { part += fmt::format("\\u{:04x}", code); };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (c == '"' || c == '\\') {
      part += '\\';
      part += static_cast<char>(c);
    } else if (c == '\n') {
      part += "\\n";
    } else if (c == '\r') {
      part += "\\r";
    } else if (c == '\t') {
      part += "\\t";
    } else if (c == '\f') {
      part += "\\f";
    } else if (c == '\b') {
      part += "\\b";
    } else if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) {
      unit(c);
    } else if (ascii && c >= 0x10000) {
      unit(0xD800 + ((c - 0x10000) >> 10));
      unit(0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      part += text.substr(begin, at - begin);
    }
    if (part.size() > 4000) {
      out += part;
      part.clear();
    }
  }
  part += '"';
  out += part;
}

std::string json_key(const Value& key) {
  switch (key.kind()) {
    case Kind::kText:
      return key.text();
    case Kind::kNone:
      return "null";
    case Kind::kBool:
      return key.boolean() ? "true" : "false";
    case Kind::kInt:
      return text_of_int(key.integer());
    case Kind::kFloat:
      return text_of_float(key.real());
    default:
      fail_type(fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
  }
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Sink& out) : style_(style), out_(out) {}

  void write(const Value& value) {
    out_.meter().step();
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return;
      case Kind::kBool:
        out_ += value.boolean() ? "true" : "false";
        return;
      case Kind::kInt:
        out_ += text_of_int(value.integer());
        return;
      case Kind::kFloat:
        out_ += number(value.real());
        return;
      case Kind::kText:
        append_json_text(value.text(), style_.ascii, out_);
        return;
      case Kind::kList:
      case Kind::kTuple:
        return list(value.items());
      case Kind::kDict:
        return dict(value.dict());
      default:
        fail_type(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return text_of_float(value);
  }
  void line() {
    if (!style_.indented) return;
    out_ += '\n';
    for (int i = 0; i < level_; ++i) out_ += style_.indent;
  }
  void list(const std::vector<Value>& items) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      line();
      write(items[i]);
    }
    --level_;
    line();
    out_ += ']';
  }
  void dict(const Dict& dict) {
    if (dict.pairs.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const Pair*> order;
    for (const Pair& pair : dict.pairs) order.push_back(&pair);
    if (style_.sorted) {
      std::stable_sort(order.begin(), order.end(), [&](const Pair* a, const Pair* b) {
        return less(a->first, b->first, out_.meter());
      });
    }
    out_ += '{';
    ++level_;
    bool first = true;
    for (const Pair* pair : order) {
      if (!first) out_ += style_.item_separator;
      first = false;
      line();
      append_json_text(json_key(pair->first), style_.ascii, out_);
      out_ += style_.key_separator;
      write(pair->second);
    }
    --level_;
    line();
    out_ += '}';
  }

  const JsonStyle& style_;
  Sink& out_;
  int level_ = 0;
};

}  // namespace

std::string text_of_int(Int value) { return fmt::format("{}", value); }

// The shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
std::string text_of_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view all(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = all.find('e');
  int exponent = 0;
  const char* digits = all.data() + e + (all[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits, all.data() + all.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(all);
  char plain[400];
  const auto stop = std::to_chars(plain, plain + sizeof(plain), value, std::chars_format::fixed);
  std::string text(plain, static_cast<size_t>(stop.ptr - plain));
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string repr_text(std::string_view text) {
  const bool doubled =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(begin, at - begin);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  return out + quote;
}

void append_str(const Value& value, Sink& out) {
  if (value.is(Kind::kText)) {
    out += value.text();
  } else if (!value.is(Kind::kUndefined)) {
    append_repr(value, out);
  }
}

void append_repr(const Value& value, Sink& out) {
  out.meter().step();
  switch (value.kind()) {
    case Kind::kUndefined:
      out += "Undefined";
      return;
    case Kind::kNone:
      out += "None";
      return;
    case Kind::kBool:
      out += value.boolean() ? "True" : "False";
      return;
    case Kind::kInt:
      out += text_of_int(value.integer());
      return;
    case Kind::kFloat:
      out += text_of_float(value.real());
      return;
    case Kind::kText:
      out.meter().step(value.text().size() / 16);
      out += value.markup() ? "Markup(" + repr_text(value.text()) + ")" : repr_text(value.text());
      return;
    case Kind::kList:
      return append_items(value.items(), "[", "]", out);
    case Kind::kTuple:
      return append_items(value.items(), "(", value.items().size() == 1 ? ",)" : ")", out);
    case Kind::kDict:
      return append_dict(value.dict(), out);
    case Kind::kRange:
      return append_range(value.range(), out);
    case Kind::kView: {
      Cursor cursor(value, out.meter());
      std::vector<Value> items;
      for (Value item; cursor.next(item);) items.push_back(std::move(item));
      return append_items(items, std::string(type_name(value)) + "([", "])", out);
    }
    case Kind::kIterator:
      out += "<generator object>";
      return;
    case Kind::kEntity:
      out += value.entity().describe();
      return;
  }
}

std::string str(const Value& value, Meter& meter) {
  if (value.is(Kind::kText)) {
    meter.step(value.text().size() / 16);
    return value.text();
  }
  Sink out(meter);
  append_str(value, out);
  return out.release();
}

std::string repr(const Value& value, Meter& meter) {
  Sink out(meter);
  append_repr(value, out);
  return out.release();
}

void append_json(const Value& value, const JsonStyle& style, Sink& out) {
  JsonWriter(style, out).write(value);
}

}  // namespace headrace::engine::jinja
