// Python's arithmetic, in integers of 120 bits: what exceeds them is refused, not wrong, and what
// is derived from them fits into 128.
#include <fmt/format.h>

#include <cmath>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {
namespace {

constexpr Int kTextMax = Int{1} << 30;

[[noreturn]] void too_large() { fail("a number exceeds 120 bits"); }
Value checked(Int value) {
  if (value >> 120 != 0 && value >> 120 != -1) too_large();
  return Value(value);
}
[[noreturn]] void by_zero(const char* what) { fail(fmt::format("{} by zero", what)); }

[[noreturn]] void unsupported(const char* op, const Value& a, const Value& b) {
  if (a.is(Kind::kUndefined)) fail_undefined(a);
  if (b.is(Kind::kUndefined)) fail_undefined(b);
  if (op[0] == '+' && a.is(Kind::kText)) {
    fail_type(fmt::format("can only concatenate str (not \"{}\") to str", type_name(b)));
  }
  if (op[0] == '+' && a.is_sequence()) {
    fail_type(fmt::format("can only concatenate {} (not \"{}\") to {}", type_name(a), type_name(b),
                          type_name(a)));
  }
  fail_type(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a),
                        type_name(b)));
}

Value add(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) {
    Int sum = 0;
    if (__builtin_add_overflow(a.integer(), b.integer(), &sum)) too_large();
    return checked(sum);
  }
  if (a.is_number() && b.is_number()) return Value(a.real() + b.real());
  if (a.is(Kind::kText) && b.is(Kind::kText)) {
    Sink out(runtime.meter());
    const bool markup = a.markup() || b.markup();
    const auto put = [&](const Value& v) {
      if (markup && !v.markup()) {
        out += escape(v.text());
      } else {
        out += v.text();
      }
    };
    put(a);
    put(b);
    return out.to_value(markup);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    runtime.meter().step((a.items().size() + b.items().size()) / 8);
    std::vector<Value> values;
    values.reserve(a.items().size() + b.items().size());
    values.insert(values.end(), a.items().begin(), a.items().end());
    values.insert(values.end(), b.items().begin(), b.items().end());
    return a.is(Kind::kList) ? make_list(&runtime.meter(), std::move(values))
                             : make_tuple(&runtime.meter(), std::move(values));
  }
  unsupported("+", a, b);
}

Value repeat(Runtime& runtime, const Value& what, Int times) {
  if (times < 0) times = 0;
  const Int size =
      static_cast<Int>(what.is(Kind::kText) ? what.text().size() : what.items().size());
  if (size != 0 && times > kTextMax / size) fail("a repetition is too long");
  runtime.meter().step(static_cast<uint64_t>(size * times / 8));
  if (what.is(Kind::kText)) {
    Sink out(runtime.meter());
    for (Int i = 0; i < times && size > 0; ++i) out += what.text();
    return out.to_value(what.markup());
  }
  std::vector<Value> values;
  runtime.meter().take(static_cast<Bytes>(size * times) * sizeof(Value));
  runtime.meter().give(static_cast<Bytes>(size * times) * sizeof(Value));
  values.reserve(static_cast<size_t>(size * times));
  for (Int i = 0; i < times; ++i) {
    values.insert(values.end(), what.items().begin(), what.items().end());
  }
  return what.is(Kind::kList) ? make_list(&runtime.meter(), std::move(values))
                              : make_tuple(&runtime.meter(), std::move(values));
}

Value multiply(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) {
    Int product = 0;
    if (__builtin_mul_overflow(a.integer(), b.integer(), &product)) too_large();
    return checked(product);
  }
  if (a.is_number() && b.is_number()) return Value(a.real() * b.real());
  const auto repeats = [](const Value& v) { return v.is(Kind::kText) || v.is_sequence(); };
  if (repeats(a) && b.is_integer()) return repeat(runtime, a, b.integer());
  if (repeats(b) && a.is_integer()) return repeat(runtime, b, a.integer());
  unsupported("*", a, b);
}

Int floor_divided(Int a, Int b) {
  const Int quotient = a / b;
  return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double floor_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return rest == 0 ? std::copysign(0.0, b) : rest;
}

Value divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) unsupported("/", a, b);
  if (b.real() == 0) by_zero(a.is_integer() && b.is_integer() ? "division" : "float division");
  return Value(a.real() / b.real());
}

Value floor_divide(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) unsupported("//", a, b);
  if (b.real() == 0) {
    by_zero(a.is_integer() && b.is_integer() ? "integer division or modulo"
                                             : "float floor division");
  }
  if (a.is_integer() && b.is_integer()) {
    if (b.integer() == -1) return checked(-a.integer());
    return Value(floor_divided(a.integer(), b.integer()));
  }
  const double rest = floor_modulo(a.real(), b.real());
  double quotient = (a.real() - rest) / b.real();
  const double whole = std::floor(quotient);
  quotient = quotient - whole > 0.5 ? whole + 1 : whole;
  return Value(quotient);
}

Value modulo(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is(Kind::kText)) return format_percent(runtime, a.text(), b);
  if (!a.is_number() || !b.is_number()) unsupported("%", a, b);
  if (b.real() == 0) {
    by_zero(a.is_integer() && b.is_integer() ? "integer modulo" : "float modulo");
  }
  if (!a.is_integer() || !b.is_integer()) return Value(floor_modulo(a.real(), b.real()));
  if (b.integer() == -1) return Value(Int{0});
  return Value(a.integer() - floor_divided(a.integer(), b.integer()) * b.integer());
}

Value power(const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) unsupported("** or pow()", a, b);
  if (a.is_integer() && b.is_integer() && b.integer() >= 0) {
    Int result = 1, base = a.integer();
    for (Int exponent = b.integer(); exponent > 0; exponent >>= 1) {
      if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) too_large();
      if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) too_large();
      if (base == 0 || base == 1) exponent &= 3;  // the rest changes nothing
    }
    return checked(result);
  }
  if (a.real() == 0 && b.real() < 0) fail("0.0 cannot be raised to a negative power");
  const double result = std::pow(a.real(), b.real());
  if (std::isnan(result) && !std::isnan(a.real()) && !std::isnan(b.real())) {
    fail("a power is no real number");
  }
  if (std::isinf(result) && std::isfinite(a.real()) && std::isfinite(b.real())) too_large();
  return Value(result);
}

Int clamp(Int value, Int low, Int high) { return value < low ? low : value > high ? high : value; }

}  // namespace

Value negative(Runtime&, const Value& a) {
  if (a.is(Kind::kUndefined)) fail_undefined(a);
  if (a.is(Kind::kFloat)) return Value(-a.real());
  if (!a.is_integer()) {
    fail_type(fmt::format("bad operand type for unary -: '{}'", type_name(a)));
  }
  Int result = 0;
  if (__builtin_sub_overflow(Int{0}, a.integer(), &result)) too_large();
  return Value(result);
}

Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  switch (op) {
    case Operator::kAdd:
      return add(runtime, a, b);
    case Operator::kSubtract: {
      if (!a.is_number() || !b.is_number()) unsupported("-", a, b);
      if (!a.is_integer() || !b.is_integer()) return Value(a.real() - b.real());
      Int difference = 0;
      if (__builtin_sub_overflow(a.integer(), b.integer(), &difference)) too_large();
      return checked(difference);
    }
    case Operator::kMultiply:
      return multiply(runtime, a, b);
    case Operator::kDivide:
      return divide(a, b);
    case Operator::kFloorDivide:
      return floor_divide(a, b);
    case Operator::kModulo:
      return modulo(runtime, a, b);
    case Operator::kPower:
      return power(a, b);
    default:
      HEADRACE_ASSERT(false, "not arithmetic");
  }
  return {};
}

Value slice_value(Runtime& runtime, const Value& of, const Value& begin, const Value& end,
                  const Value& step) {
  const auto usable = [](const Value& v) { return v.is(Kind::kNone) || v.is_integer(); };
  const bool sliced = of.is(Kind::kText) || of.is_sequence() || of.is(Kind::kRange);
  if (!sliced) fail_type(fmt::format("'{}' object cannot be sliced", type_name(of)));
  if (!usable(begin) || !usable(end) || !usable(step)) {
    fail_type("slice indices must be integers or None or have an __index__ method");
  }
  const Int by = step.is(Kind::kNone) ? 1 : step.integer();
  if (by == 0) fail("slice step cannot be zero");
  const Int size = static_cast<Int>(length(of));
  const Int low = by < 0 ? -1 : 0, high = by < 0 ? size - 1 : size;
  const auto bound = [&](const Value& v, Int otherwise) {
    if (v.is(Kind::kNone)) return otherwise;
    const Int at = v.integer() < 0 ? v.integer() + size : v.integer();
    return clamp(at, low, high);
  };
  const Int first = bound(begin, by < 0 ? high : low), last = bound(end, by < 0 ? low : high);
  if (of.is(Kind::kRange)) {
    const Range& r = of.range();
    return {Kind::kRange, std::make_shared<Range>(&runtime.meter(), r.start + first * r.step,
                                                  r.start + last * r.step, r.step * by)};
  }
  if (of.is(Kind::kText) && by == 1) {
    const size_t from = byte_of(of, static_cast<size_t>(first));
    const size_t to = last > first ? byte_of(of, static_cast<size_t>(last)) : from;
    runtime.meter().step(1 + of.text().size() / 64);
    return runtime.text(of.text().substr(from, to - from), of.markup());
  }
  std::vector<Value> values;
  const std::vector<Value> characters =
      of.is(Kind::kText) ? collect(of, runtime.meter()) : std::vector<Value>();
  const std::vector<Value>& from = of.is(Kind::kText) ? characters : of.items();
  for (Int i = first; by > 0 ? i < last : i > last; i += by) {
    runtime.meter().step();
    values.push_back(from[static_cast<size_t>(i)]);
    if (by > size || by < -size) break;  // one step leaves the whole
  }
  if (of.is(Kind::kText)) {
    Sink out(runtime.meter());
    for (const Value& value : values) out += value.text();
    return out.to_value(of.markup());
  }
  return of.is(Kind::kList) ? make_list(&runtime.meter(), std::move(values))
                            : make_tuple(&runtime.meter(), std::move(values));
}

}  // namespace headrace::engine::jinja
