// "%s" % values and "{}".format(values).
#include <fmt/format.h>

#include <cmath>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {
namespace {

constexpr int kWidthMax = 10'000;

struct Spec {
  bool left = false, plus = false, blank = false, zero = false, other = false;
  int width = 0, precision = -1;
};

int digits(const std::string& text, size_t& at) {
  int value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + (text[at++] - '0');
    if (value > kWidthMax) fail("a field of a format is too wide");
  }
  return value;
}

Spec read_spec(const std::string& text, size_t& at) {
  Spec spec;
  for (; at < text.size(); ++at) {
    if (text[at] == '-') {
      spec.left = true;
    } else if (text[at] == '+') {
      spec.plus = true;
    } else if (text[at] == ' ') {
      spec.blank = true;
    } else if (text[at] == '0') {
      spec.zero = true;
    } else if (text[at] == '#') {
      spec.other = true;
    } else {
      break;
    }
  }
  spec.width = digits(text, at);
  if (at < text.size() && text[at] == '.') {
    ++at;
    spec.precision = digits(text, at);
  }
  while (at < text.size() && (text[at] == 'h' || text[at] == 'l' || text[at] == 'L')) ++at;
  return spec;
}

std::string with_sign(std::string number, bool negative, const Spec& spec) {
  const std::string sign = negative ? "-" : spec.plus ? "+" : spec.blank ? " " : "";
  const size_t size = sign.size() + number.size();
  if (spec.zero && !spec.left && size < static_cast<size_t>(spec.width)) {
    number.insert(0, static_cast<size_t>(spec.width) - size, '0');
  }
  return sign + number;
}

std::string format_integer(const Value& value, char how, const Spec& spec) {
  if (value.is(Kind::kUndefined)) fail_undefined(value);
  Int number = 0;
  if (value.is_integer()) {
    number = value.integer();
  } else if (value.is(Kind::kFloat) && (how == 'd' || how == 'i' || how == 'u')) {
    if (!(std::abs(value.real()) < 1e37)) fail("a number exceeds 128 bits");
    number = static_cast<Int>(value.real());
  } else {
    fail_type(fmt::format("%{} format: a real number is required, not {}", how, type_name(value)));
  }
  const bool negative = number < 0;
  if (negative) number = -number;
  std::string text = how == 'x'   ? fmt::format("{:x}", number)
                     : how == 'X' ? fmt::format("{:X}", number)
                     : how == 'o' ? fmt::format("{:o}", number)
                                  : fmt::format("{}", number);
  if (static_cast<int>(text.size()) < spec.precision) {
    text.insert(0, static_cast<size_t>(spec.precision) - text.size(), '0');
  }
  if (spec.other && how != 'd') text = std::string("0") + how + text;
  return with_sign(std::move(text), negative, spec);
}

std::string format_real(const Value& value, char how, const Spec& spec) {
  if (value.is(Kind::kUndefined)) fail_undefined(value);
  if (!value.is_number()) {
    fail_type(fmt::format("must be real number, not {}", type_name(value)));
  }
  const double number = value.real();
  if (!std::isfinite(number)) {
    return with_sign(std::isnan(number) ? "nan" : "inf", std::signbit(number), spec);
  }
  int precision = spec.precision < 0 ? 6 : spec.precision;
  if (precision > 1000) fail("a precision is too large");
  const double size = std::abs(number);
  std::string text = how == 'f' || how == 'F' ? fmt::format("{:.{}f}", size, precision)
                     : how == 'e'             ? fmt::format("{:.{}e}", size, precision)
                     : how == 'E'             ? fmt::format("{:.{}E}", size, precision)
                     : how == 'G'             ? fmt::format("{:.{}G}", size, precision)
                                              : fmt::format("{:.{}g}", size, precision);
  return with_sign(std::move(text), std::signbit(number), spec);
}

class Percent {
 public:
  Percent(Runtime& runtime, const std::string& format, const Value& values)
      : runtime_(runtime), format_(format), values_(values), out_(runtime.meter()) {}

  Value run() {
    runtime_.meter().step(format_.size() / 16);
    for (size_t at = 0; at < format_.size();) {
      if (format_[at] != '%') {
        const size_t end = std::min(format_.find('%', at), format_.size());
        out_ += std::string_view(format_).substr(at, end - at);
        at = end;
      } else {
        one(++at);
      }
    }
    const bool all = !values_.is(Kind::kTuple) || used_ == values_.items().size();
    if (!by_name_ && (!all || (used_ == 0 && !values_.is(Kind::kTuple) &&
                               !values_.is(Kind::kDict) && !values_.is(Kind::kList)))) {
      fail_type("not all arguments converted during string formatting");
    }
    return out_.to_value();
  }

 private:
  Value next() {
    if (values_.is(Kind::kTuple)) {
      if (used_ < values_.items().size()) return values_.items()[used_++];
    } else if (used_++ == 0) {
      return values_;
    }
    fail_type("not enough arguments for format string");
  }

  void one(size_t& at) {
    runtime_.meter().step();
    Value named;
    bool has_name = false;
    if (at < format_.size() && format_[at] == '(') {
      const size_t end = format_.find(')', at);
      if (end == std::string::npos) fail("incomplete format key");
      if (!values_.is(Kind::kDict)) fail_type("format requires a mapping");
      const Value* found = values_.dict().find(format_.substr(at + 1, end - at - 1));
      if (found == nullptr) fail(format_.substr(at + 1, end - at - 1));
      named = *found;
      has_name = by_name_ = true;
      at = end + 1;
    }
    const Spec spec = read_spec(format_, at);
    if (at == format_.size()) fail("incomplete format");
    const char how = format_[at++];
    if (how == '%') {
      out_ += '%';
      return;
    }
    if (std::string_view("srdiuxXofFeEgG").find(how) == std::string_view::npos) {
      fail(fmt::format("unsupported format character '{}'", how));
    }
    const Value value = has_name ? named : next();
    std::string text;
    if (how == 's' || how == 'r') {
      text = how == 's' ? str(value, runtime_.meter()) : repr(value, runtime_.meter());
      if (spec.precision >= 0) {
        text.resize(byte_of(std::string_view(text), static_cast<size_t>(spec.precision)));
      }
    } else if (std::string_view("diuxXo").find(how) != std::string_view::npos) {
      text = format_integer(value, how, spec);
    } else {
      text = format_real(value, how, spec);
    }
    const Value padded =
        pad_text(runtime_, runtime_.text(std::move(text)), spec.width, " ", spec.left ? 1 : -1);
    out_ += padded.text();
  }

  Runtime& runtime_;
  const std::string& format_;
  const Value& values_;
  Sink out_;
  size_t used_ = 0;
  bool by_name_ = false;
};

}  // namespace

Value format_percent(Runtime& runtime, const std::string& format, const Value& values) {
  return Percent(runtime, format, values).run();
}

// {}, {0}, {name}, {0.name} and {name[key]}, with !s and !r; format specifications are refused.
Value format_braces(Runtime& runtime, const std::string& format, Arguments& arguments) {
  runtime.meter().step(format.size() / 16);
  Sink out(runtime.meter());
  size_t automatic = 0;
  for (size_t at = 0; at < format.size(); ++at) {
    const char c = format[at];
    if ((c == '{' || c == '}') && at + 1 < format.size() && format[at + 1] == c) {
      out += c;
      ++at;
      continue;
    }
    if (c == '}') fail("Single '}' encountered in format string");
    if (c != '{') {
      out += c;
      continue;
    }
    runtime.meter().step(1 + arguments.named.size() / 8);
    const size_t end = format.find('}', at);
    if (end == std::string::npos) fail("expected '}' before end of string");
    std::string field = format.substr(at + 1, end - at - 1);
    at = end;
    if (field.find(':') != std::string::npos || field.find('{') != std::string::npos) {
      fail("a format specification is not supported in format(); use the % operator");
    }
    const bool shows = field.ends_with("!r");
    if (shows || field.ends_with("!s")) field.resize(field.size() - 2);
    const size_t name_end = std::min(field.find_first_of(".["), field.size());
    const std::string name = field.substr(0, name_end);
    if (name.empty() && !field.empty()) fail("format(): a field has no name");
    const bool number = name.find_first_not_of("0123456789") == std::string::npos;
    const Value* value = nullptr;
    if (number) {
      const size_t i = name.empty() ? automatic++ : name.size() < 9 ? std::stoul(name) : SIZE_MAX;
      if (i < arguments.positional.size()) value = &arguments.positional[i];
    } else {
      for (const auto& [known, each] : arguments.named) value = known == name ? &each : value;
    }
    if (value == nullptr) fail(fmt::format("format(): there is no value for {{{}}}", name));
    Value now = *value;
    for (size_t i = name_end; i < field.size();) {
      const bool item = field[i] == '[';
      const size_t stop = item ? field.find(']', i) : field.find_first_of(".[", i + 1);
      if (item && stop == std::string::npos) fail("Missing ']' in format string");
      const std::string key = field.substr(i + 1, std::min(stop, field.size()) - i - 1);
      const bool index = item && !key.empty() && key.size() < 9 &&
                         key.find_first_not_of("0123456789") == std::string::npos;
      now = index  ? runtime.item(now, Value(static_cast<Int>(std::stoul(key))))
            : item ? runtime.item(now, runtime.text(key))
                   : runtime.attribute(now, key);
      i = std::min(stop, field.size()) + (item ? 1 : 0);
    }
    if (shows) {
      append_repr(now, out);
    } else {
      append_str(now, out);
    }
  }
  return out.to_value();
}

}  // namespace headrace::engine::jinja
