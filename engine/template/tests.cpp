// What may stand behind `is`.
#include <fmt/format.h>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {
namespace {

using R = Runtime;
using V = Value;
using A = Arguments;

const Value& other(Arguments& a, const char* name) {
  if (a.positional.size() != 1 || !a.named.empty()) {
    fail_type(fmt::format("the test {} takes one value", name));
  }
  return a.positional[0];
}

template <Kind kKind>
bool is_kind(R&, const V& v, A&) {
  return v.is(kKind);
}

template <bool kWanted>
bool is_bool(R&, const V& v, A&) {
  return v.is(Kind::kBool) && v.boolean() == kWanted;
}

template <LetterClass kCase>
bool is_case(R& r, const V& v, A&) {
  return has_case(str(v, r.meter()), kCase);
}

Value rest(R& r, const V& v, const V& by) { return arithmetic(r, Operator::kModulo, v, by); }

bool odd(R& r, const V& v, A&) { return equal(rest(r, v, V(Int{2})), V(Int{1}), r.meter()); }
bool even(R& r, const V& v, A&) { return equal(rest(r, v, V(Int{2})), V(Int{0}), r.meter()); }
bool divisible(R& r, const V& v, A& a) {
  return equal(rest(r, v, other(a, "divisibleby")), V(Int{0}), r.meter());
}

bool defined(R&, const V& v, A&) { return !v.is(Kind::kUndefined); }
bool number(R&, const V& v, A&) { return v.is_number(); }
bool is_iterable(R&, const V& v, A&) { return iterable(v); }
bool callable(R&, const V& v, A&) {
  return v.is(Kind::kUndefined) || (v.is(Kind::kEntity) && v.entity().can_call());
}
bool escaped(R&, const V& v, A&) { return v.markup(); }

bool sequence(R&, const V& v, A&) {
  return v.is(Kind::kUndefined) || v.is(Kind::kText) || v.is_sequence() || v.is(Kind::kDict) ||
         v.is(Kind::kRange);
}

bool same_as(R&, const V& v, A& a) {
  const Value& w = other(a, "sameas");
  if (v.kind() != w.kind()) return false;
  if (v.is(Kind::kNone)) return true;
  if (v.is_integer()) return v.integer() == w.integer();
  return v.address() != nullptr && v.address() == w.address();
}

bool in(R& r, const V& v, A& a) { return contains(other(a, "in"), v, r.meter()); }
bool eq(R& r, const V& v, A& a) { return equal(v, other(a, "eq"), r.meter()); }
bool ne(R& r, const V& v, A& a) { return !equal(v, other(a, "ne"), r.meter()); }
bool lt(R& r, const V& v, A& a) { return less(v, other(a, "lt"), r.meter()); }
bool gt(R& r, const V& v, A& a) { return less(other(a, "gt"), v, r.meter(), ">"); }
bool le(R& r, const V& v, A& a) { return less_or_equal(v, other(a, "le"), r.meter(), "<="); }
bool ge(R& r, const V& v, A& a) { return less_or_equal(other(a, "ge"), v, r.meter(), ">="); }

bool is_filter(R& r, const V& v, A&) {
  const std::string name = str(v, r.meter());
  return find_filter(name) != nullptr || find_sequence_filter(name) != nullptr;
}
bool is_test(R& r, const V& v, A&) { return find_test(str(v, r.meter())) != nullptr; }

constexpr std::pair<const char*, Test> kTests[] = {
    {"!=", ne},
    {"<", lt},
    {"<=", le},
    {"==", eq},
    {">", gt},
    {">=", ge},
    {"boolean", is_kind<Kind::kBool>},
    {"callable", callable},
    {"defined", defined},
    {"divisibleby", divisible},
    {"eq", eq},
    {"equalto", eq},
    {"escaped", escaped},
    {"even", even},
    {"false", is_bool<false>},
    {"filter", is_filter},
    {"float", is_kind<Kind::kFloat>},
    {"ge", ge},
    {"greaterthan", gt},
    {"gt", gt},
    {"in", in},
    {"integer", is_kind<Kind::kInt>},
    {"iterable", is_iterable},
    {"le", le},
    {"lessthan", lt},
    {"lower", is_case<LetterClass::kLower>},
    {"lt", lt},
    {"mapping", is_kind<Kind::kDict>},
    {"ne", ne},
    {"none", is_kind<Kind::kNone>},
    {"number", number},
    {"odd", odd},
    {"sameas", same_as},
    {"sequence", sequence},
    {"string", is_kind<Kind::kText>},
    {"test", is_test},
    {"true", is_bool<true>},
    {"undefined", is_kind<Kind::kUndefined>},
    {"upper", is_case<LetterClass::kUpper>},
};

}  // namespace

Test find_test(const std::string& name) {
  for (const auto& [known, function] : kTests) {
    if (name == known) return function;
  }
  return nullptr;
}

}  // namespace headrace::engine::jinja
