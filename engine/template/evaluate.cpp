// Expressions of a template, evaluated.
#include <fmt/format.h>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {

Value Runtime::evaluate(const Expression& e, const ScopePtr& scope) {
  const Deeper deeper(*this);
  meter_.step();
  line_ = e.line;
  const auto part = [&](size_t i) { return evaluate(*e.parts[i], scope); };
  switch (e.kind) {
    case Operator::kConstant:
      return e.value;
    case Operator::kName:
      return name(e.name, scope);
    case Operator::kAttribute:
      return attribute(part(0), e.name);
    case Operator::kItem:
      if (e.parts[1]->kind == Operator::kSlice) return slice(part(0), *e.parts[1], scope);
      return item(part(0), part(1));
    case Operator::kCall: {
      const Value callee = part(0);
      Value result = call(callee, arguments_of(e, scope));
      line_ = e.line;
      return result;
    }
    case Operator::kFilter: {
      const Value input = part(0);
      return filter(e.name, input, arguments_of(e, scope));
    }
    case Operator::kTest: {
      const Value input = part(0);
      return Value(test(e.name, input, arguments_of(e, scope)));
    }
    case Operator::kList:
    case Operator::kTuple:
      return sequence(e, scope);
    case Operator::kDict:
      return dict(e, scope);
    case Operator::kNot:
      return Value(!truth(part(0)));
    case Operator::kCondition:
    case Operator::kAnd:
    case Operator::kOr:
      return choose(e, scope);
    case Operator::kNegative:
      return negative(*this, part(0));
    case Operator::kPositive: {
      Value value = part(0);
      if (value.is(Kind::kUndefined)) fail_undefined(value);
      if (!value.is_number()) {
        fail_type(fmt::format("bad operand type for unary +: '{}'", type_name(value)));
      }
      return value.is(Kind::kBool) ? Value(value.integer()) : value;
    }
    case Operator::kConcatenate:
      return concatenate(e, scope);
    case Operator::kCompare:
      return compare(e, scope);
    case Operator::kSlice:
      fail_type("a slice stands where no slice can");
    case Operator::kTarget:
      return name(e.name, scope);
    default: {
      const Value left = part(0), right = part(1);
      line_ = e.line;
      return arithmetic(*this, e.kind, left, right);
    }
  }
}

Value Runtime::sequence(const Expression& e, const ScopePtr& scope) {
  std::vector<Value> values;
  values.reserve(e.parts.size());
  for (const ExpressionPtr& each : e.parts) values.push_back(evaluate(*each, scope));
  return e.kind == Operator::kList ? make_list(&meter_, std::move(values))
                                   : make_tuple(&meter_, std::move(values));
}

// What evaluates only the parts that it needs.
Value Runtime::choose(const Expression& e, const ScopePtr& scope) {
  const auto part = [&](size_t i) { return evaluate(*e.parts[i], scope); };
  if (e.kind != Operator::kCondition) {
    Value left = part(0);
    return truth(left) == (e.kind == Operator::kAnd) ? part(1) : left;
  }
  if (truth(part(1))) return part(0);
  if (e.parts[2]) return part(2);
  return make_undefined(&meter_,
                        "the inline if-expression evaluated to false and no else section was "
                        "defined.");
}

Value Runtime::name(const std::string& name, const ScopePtr& scope) {
  if (const Value* value = scope->find(name, meter_)) return *value;
  Value found;
  if (global(*this, name, found)) return found;
  return make_undefined(&meter_, fmt::format("{} is undefined", repr_text(name)));
}

Value Runtime::dict(const Expression& e, const ScopePtr& scope) {
  std::vector<Pair> pairs;
  pairs.reserve(e.parts.size() / 2);
  for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
    Value key = evaluate(*e.parts[i], scope);
    pairs.emplace_back(std::move(key), evaluate(*e.parts[i + 1], scope));
  }
  return make_dict(&meter_, std::move(pairs));
}

Value Runtime::concatenate(const Expression& e, const ScopePtr& scope) {
  Sink out(meter_);
  for (const ExpressionPtr& each : e.parts) append_str(evaluate(*each, scope), out);
  return out.to_value();
}

Value Runtime::compare(const Expression& e, const ScopePtr& scope) {
  Value left = evaluate(*e.parts[0], scope);
  for (size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1], scope);
    line_ = e.line;
    bool holds = false;
    switch (e.comparisons[i]) {
      case Comparison::kEq:
        holds = equal(left, right, meter_);
        break;
      case Comparison::kNe:
        holds = !equal(left, right, meter_);
        break;
      case Comparison::kLt:
        holds = less(left, right, meter_, "<");
        break;
      case Comparison::kLe:
        holds = less_or_equal(left, right, meter_, "<=");
        break;
      case Comparison::kGt:
        holds = less(right, left, meter_, ">");
        break;
      case Comparison::kGe:
        holds = less_or_equal(right, left, meter_, ">=");
        break;
      case Comparison::kIn:
        holds = contains(right, left, meter_);
        break;
      case Comparison::kNotIn:
        holds = !contains(right, left, meter_);
        break;
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Arguments Runtime::arguments_of(const Expression& e, const ScopePtr& scope) {
  Arguments out;
  out.positional.reserve(e.arguments.size());
  for (const ExpressionPtr& each : e.arguments) out.positional.push_back(evaluate(*each, scope));
  for (const auto& [name, each] : e.named) out.named.emplace_back(name, evaluate(*each, scope));
  if (e.more_arguments) {
    for (Value& each : collect(evaluate(*e.more_arguments, scope), meter_)) {
      out.positional.push_back(std::move(each));
    }
  }
  if (e.more_named) {
    const Value more = evaluate(*e.more_named, scope);
    if (!more.is(Kind::kDict)) fail_type("argument after ** must be a mapping");
    meter_.step(more.dict().pairs.size());
    for (const auto& [key, value] : more.dict().pairs) {
      if (!key.is(Kind::kText)) fail_type("keywords must be strings");
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Runtime::slice(const Value& of, const Expression& bounds, const ScopePtr& scope) {
  Value values[3];
  for (size_t i = 0; i < 3; ++i) {
    if (bounds.parts[i]) values[i] = evaluate(*bounds.parts[i], scope);
  }
  line_ = bounds.line;
  if (of.is(Kind::kUndefined)) fail_undefined(of);
  return slice_value(*this, of, values[0], values[1], values[2]);
}

}  // namespace headrace::engine::jinja
