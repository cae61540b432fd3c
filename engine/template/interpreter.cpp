#include "engine/template/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/template/loop.h"

namespace headrace::engine::jinja {
namespace {

class Macro final : public Entity {
 public:
  Macro(Meter* meter, std::shared_ptr<MacroShape> shape, ScopePtr around)
      : Entity(meter, 192), shape_(std::move(shape)), around_(std::move(around)) {}
  const char* type_name() const override { return "Macro"; }
  std::string describe() const override {
    return shape_->name.empty() ? "<Macro anonymous>"
                                : fmt::format("<Macro {}>", repr_text(shape_->name));
  }
  bool attribute(Runtime& runtime, const std::string& name, Value& out) override {
    if (name == "name") return out = runtime.text(shape_->name), true;
    if (name != "arguments") return false;
    std::vector<Value> names;
    for (const Parameter& p : shape_->parameters) names.push_back(runtime.text(p.name));
    return out = make_tuple(&runtime.meter(), std::move(names)), true;
  }
  Value call(Runtime& runtime, Arguments arguments) override {
    return runtime.run_macro(*shape_, around_, std::move(arguments));
  }

 private:
  std::shared_ptr<MacroShape> shape_;
  ScopePtr around_;
};

Value take_named(Arguments& arguments, const std::string& name, bool& found, Meter& meter) {
  auto& named = arguments.named;
  meter.step(named.size() / 8);
  const auto at = std::find_if(named.begin(), named.end(),
                               [&](const auto& each) { return each.first == name; });
  found = at != named.end();
  if (!found) return {};
  Value value = std::move(at->second);
  named.erase(at);
  return value;
}

}  // namespace

void Scope::set(const std::string& name, Value value, Meter& meter) {
  meter.step(names.size() / 16 + name.size() / 64);
  for (auto& [known, old] : names) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  names.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name, Meter& meter) const {
  size_t seen = 0;
  const Value* found = nullptr;
  for (const Scope* at = this; at != nullptr && found == nullptr; at = at->parent.get()) {
    seen += 1 + at->names.size();
    for (const auto& [known, value] : at->names) {
      if (known != name) continue;
      found = &value;
      break;
    }
  }
  meter.step(seen / 16 + name.size() / 64);
  return found;
}

Runtime::Runtime(Meter& meter, const std::tm& now) : meter_(meter), now_(now) {}

Runtime::~Runtime() {
  for (const auto& object : kept_) {
    if (auto* cyclic = dynamic_cast<Cyclic*>(object.get())) cyclic->clear();
  }
  for (const ScopePtr& scope : scopes_) scope->names.clear();
}

void Runtime::keep(std::shared_ptr<Object> cyclic) {
  meter_.take(64);
  kept_.push_back(std::move(cyclic));
}

std::string Runtime::render(const Body& body, std::vector<std::pair<std::string, Value>> names) {
  // What is given stands outside the template's own names, as the globals stand outside these.
  auto given = std::make_shared<Scope>();
  given->names = std::move(names);
  auto own = std::make_shared<Scope>();
  own->parent = given;
  scopes_ = {given, own};
  Sink out(meter_);
  run(body, own, out);
  return out.release();
}

Flow Runtime::run(const Body& body, const ScopePtr& scope, Sink& out) {
  for (const auto& statement : body) {
    const Flow flow = run_one(*statement, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

namespace {

ScopePtr inside(const ScopePtr& scope) {
  auto made = std::make_shared<Scope>();
  made->parent = scope;
  return made;
}

}  // namespace

Flow Runtime::run_one(const Statement& s, const ScopePtr& scope, Sink& out) {
  const Deeper deeper(*this);
  meter_.step();
  line_ = s.line;
  using What = Statement::What;
  switch (s.what) {
    case What::kText:
      out += s.text;
      break;
    case What::kOutput:
      append_str(evaluate(*s.expression, scope), out);
      break;
    case What::kIf:
      for (const Branch& branch : s.branches) {
        if (branch.condition && !truth(evaluate(*branch.condition, scope))) continue;
        return run(branch.body, scope, out);
      }
      break;
    case What::kFor:
      return run_loop(s, evaluate(*s.expression, scope), scope, 0, out);
    case What::kSet:
      assign(*s.target, evaluate(*s.expression, scope), scope);
      break;
    case What::kSetBlock:
      set_block(s, scope);
      break;
    case What::kMacro:
      scope->set(s.macro->name, make_macro(s.macro, scope), meter_);
      break;
    case What::kCallBlock: {
      Arguments arguments = arguments_of(*s.expression, scope);
      arguments.named.emplace_back("caller", make_macro(s.macro, scope));
      append_str(call(evaluate(*s.expression->parts[0], scope), std::move(arguments)), out);
      break;
    }
    case What::kFilterBlock: {
      Sink inner(meter_);
      const Flow flow = run(s.body, inside(scope), inner);
      if (flow != Flow::kNext) return flow;
      append_str(apply_filters(*s.expression, inner.to_value(), scope), out);
      break;
    }
    case What::kWith: {
      const ScopePtr inner = inside(scope);
      for (const auto& [target, value] : s.assignments) {
        assign(*target, evaluate(*value, scope), inner);
      }
      return run(s.body, inner, out);
    }
    case What::kGeneration:
      return run(s.body, inside(scope), out);
    case What::kBreak:
      return Flow::kBreak;
    case What::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Flow Runtime::run_loop(const Statement& s, const Value& items, const ScopePtr& scope, int depth,
                       Sink& out) {
  const auto loop = std::make_shared<Loop>(*this, s, items, scope, depth);
  const Value loop_value(Kind::kEntity, loop);
  bool finished_one = false;  // else runs where no pass reached its end, as the language has it
  for (Value item; loop->advance(item);) {
    const ScopePtr inner = inside(scope);
    assign(*s.target, item, inner);
    inner->set("loop", loop_value, meter_);
    const Flow flow = run(s.body, inner, out);
    if (flow == Flow::kBreak) break;
    finished_one |= flow == Flow::kNext;
  }
  if (finished_one || s.otherwise.empty()) return Flow::kNext;
  return run(s.otherwise, inside(scope), out);
}

void Runtime::set_block(const Statement& s, const ScopePtr& scope) {
  Sink inner(meter_);
  if (run(s.body, inside(scope), inner) != Flow::kNext) return;
  Value value = inner.to_value();
  if (s.expression) value = apply_filters(*s.expression, value, scope);
  assign(*s.target, value, scope);
}

// A chain of filters whose innermost input is `input`.
Value Runtime::apply_filters(const Expression& e, const Value& input, const ScopePtr& scope) {
  const Value inner = e.parts[0] ? apply_filters(*e.parts[0], input, scope) : input;
  return filter(e.name, inner, arguments_of(e, scope));
}

void Runtime::assign(const Expression& target, const Value& value, const ScopePtr& scope) {
  if (target.kind == Operator::kTuple) {
    const std::vector<Value> values = collect(value, meter_);
    if (values.size() != target.parts.size()) {
      fail(fmt::format("{} values to unpack (expected {}, got {})",
                       values.size() < target.parts.size() ? "not enough" : "too many",
                       target.parts.size(), values.size()));
    }
    for (size_t i = 0; i < values.size(); ++i) assign(*target.parts[i], values[i], scope);
    return;
  }
  if (target.attribute.empty()) return scope->set(target.name, value, meter_);
  const Value* of = scope->find(target.name, meter_);
  if (of == nullptr || !set_attribute(*of, target.attribute, value)) {
    fail("cannot assign attribute on non-namespace object");
  }
}

Value Runtime::make_macro(const std::shared_ptr<MacroShape>& shape, const ScopePtr& scope) {
  meter_.step(1 + scopes_.size() / 64);
  // The macro holds the scope that holds it; the runtime takes the scope apart.
  if (std::find(scopes_.rbegin(), scopes_.rend(), scope) == scopes_.rend()) {
    meter_.take(256);
    for (ScopePtr at = scope; at; at = at->parent) scopes_.push_back(at);
  }
  return {Kind::kEntity, std::make_shared<Macro>(&meter_, shape, scope)};
}

Value Runtime::run_macro(const MacroShape& macro, const ScopePtr& around, Arguments arguments) {
  const Deeper deeper(*this);
  meter_.step();
  const ScopePtr scope = inside(around);
  const std::string name = macro.name.empty() ? "None" : repr_text(macro.name);
  bool found = false;
  if (macro.caller) {
    const bool explicit_caller = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                             [](const Parameter& p) { return p.name == "caller"; });
    if (!explicit_caller) {
      Value caller = take_named(arguments, "caller", found, meter_);
      scope->set("caller", found ? caller : make_undefined(&meter_, "No caller defined"), meter_);
    }
  }
  const size_t given = std::min(arguments.positional.size(), macro.parameters.size());
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& p = macro.parameters[i];
    Value value;
    found = i < given;
    if (found) {
      value = arguments.positional[i];
    } else {
      value = take_named(arguments, p.name, found, meter_);
    }
    if (!found) {
      value = p.standard ? evaluate(*p.standard, scope)
                         : make_undefined(&meter_, fmt::format("parameter {} was not provided",
                                                               repr_text(p.name)));
    }
    scope->set(p.name, std::move(value), meter_);
  }
  if (macro.named) {
    std::vector<Pair> rest;
    for (auto& [key, value] : arguments.named) rest.emplace_back(text(key), std::move(value));
    scope->set("kwargs", make_dict(&meter_, std::move(rest)), meter_);
  } else if (!arguments.named.empty()) {
    fail_type(fmt::format("macro {} takes no keyword argument {}", name,
                          repr_text(arguments.named.front().first)));
  }
  if (macro.more) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<std::ptrdiff_t>(given),
                            arguments.positional.end());
    scope->set("varargs", make_tuple(&meter_, std::move(rest)), meter_);
  } else if (arguments.positional.size() > macro.parameters.size()) {
    fail_type(
        fmt::format("macro {} takes not more than {} argument(s)", name, macro.parameters.size()));
  }
  Sink out(meter_);
  run(macro.body, scope, out);
  return out.to_value();
}

void Runtime::count_given(const Value& input) {
  if (input.is(Kind::kText)) meter_.step(input.text().size() / 64);
}

void Runtime::count_given(const Arguments& arguments) {
  meter_.step((arguments.positional.size() + arguments.named.size()) / 8);
  for (const Value& each : arguments.positional) count_given(each);
  for (const auto& [name, each] : arguments.named) count_given(each);
}

Value Runtime::call(const Value& callee, Arguments arguments) {
  if (callee.is(Kind::kUndefined)) fail_undefined(callee);
  if (!callee.is(Kind::kEntity)) {
    fail_type(fmt::format("'{}' object is not callable", type_name(callee)));
  }
  meter_.step();
  count_given(arguments);
  const Value held = callee;  // a call may replace the name that it was made by
  return held.entity().call(*this, std::move(arguments));
}

Value Runtime::attribute(const Value& of, const std::string& name) {
  if (of.is(Kind::kUndefined)) fail_undefined(of);
  Value found;
  if (method(*this, of, name, found)) return found;
  if (of.is(Kind::kDict)) {
    if (const Value* value = of.dict().find(name)) return *value;
  }
  return make_undefined(&meter_,
                        fmt::format("'{}' has no attribute {}", object_type(of), repr_text(name)));
}

Value Runtime::item(const Value& of, const Value& key) {
  if (of.is(Kind::kUndefined)) fail_undefined(of);
  if (of.is(Kind::kDict) && hashable(key)) {
    if (const Value* value = of.dict().find(key)) return *value;
  }
  if (key.is_integer() && (of.is_sequence() || of.is(Kind::kText) || of.is(Kind::kRange))) {
    const Int size = static_cast<Int>(length(of));
    const Int index = key.integer() < 0 ? key.integer() + size : key.integer();
    if (index >= 0 && index < size) {
      if (of.is_sequence()) return of.items()[static_cast<size_t>(index)];
      if (of.is(Kind::kRange)) return Value(of.range().start + index * of.range().step);
      if (!of.ascii()) meter_.step(of.text().size() / 64);
      const size_t begin = byte_of(of, static_cast<size_t>(index));
      const size_t end = begin + byte_of(std::string_view(of.text()).substr(begin, 4), 1);
      return text(of.text().substr(begin, end - begin), of.markup());
    }
  }
  Value found;
  count_given(key);
  if (key.is(Kind::kText) && method(*this, of, key.text(), found)) return found;
  return make_undefined(
      &meter_, key.is(Kind::kText)
                   ? fmt::format("'{}' has no attribute {}", object_type(of), repr_text(key.text()))
                   : fmt::format("{} has no element {}", object_type(of), repr(key, meter_)));
}

Value Runtime::filter(const std::string& name, const Value& input, Arguments arguments) {
  meter_.step();
  count_given(input);
  count_given(arguments);
  Filter found = find_filter(name);
  if (found == nullptr) found = find_sequence_filter(name);
  if (found == nullptr) fail(fmt::format("No filter named {}.", repr_text(name)));
  return found(*this, input, arguments);
}

bool Runtime::test(const std::string& name, const Value& input, Arguments arguments) {
  meter_.step();
  count_given(arguments);
  const Test found = find_test(name);
  if (found == nullptr) fail(fmt::format("No test named {}.", repr_text(name)));
  return found(*this, input, arguments);
}

}  // namespace headrace::engine::jinja
