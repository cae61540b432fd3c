// What every template may call.
#include <fmt/format.h>

#include <array>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {
namespace {

constexpr Int kRangeMax = 100'000;  // the sandbox's own
constexpr size_t kTimeBytesMax = 4096;

using Function = Value (*)(Runtime&, Arguments&);

class Builtin final : public Entity {
 public:
  Builtin(Meter* meter, const char* name, Function function)
      : Entity(meter, 96), name_(name), function_(function) {}
  const char* type_name() const override { return "function"; }
  std::string describe() const override { return fmt::format("<function {}>", name_); }
  Value call(Runtime& runtime, Arguments arguments) override {
    return function_(runtime, arguments);
  }

 private:
  const char* name_;
  Function function_;
};

class Namespace final : public Entity, public Cyclic {
 public:
  explicit Namespace(Meter* meter) : Entity(meter, 192) {}
  const char* type_name() const override { return "jinja2.utils.Namespace"; }
  std::string describe() const override { return "<Namespace>"; }
  bool can_call() const override { return false; }
  bool attribute(Runtime&, const std::string& name, Value& out) override {
    meter()->step(names_.size() / 8 + name.size() / 64);
    for (const auto& [known, value] : names_) {
      if (known == name) return out = value, true;
    }
    return false;
  }
  void set(const std::string& name, Value value) {
    if (name.starts_with('_')) {
      fail(fmt::format("a namespace cannot hold {}, which begins with an underscore; rename it",
                       repr_text(name)));
    }
    meter()->step(names_.size() / 8);
    for (auto& [known, old] : names_) {
      if (known == name) {
        old = std::move(value);
        return;
      }
    }
    grow(128 + name.size());
    names_.emplace_back(name, std::move(value));
  }
  void clear() override { names_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> names_;
};

// cycler(…): the next of its items at each call of next().
class Cycler final : public Entity, public Cyclic, public std::enable_shared_from_this<Cycler> {
 public:
  Cycler(Meter* meter, std::vector<Value> items)
      : Entity(meter, 192 + items.size() * sizeof(Value)), items_(std::move(items)) {}
  const char* type_name() const override { return "jinja2.utils.Cycler"; }
  bool can_call() const override { return false; }
  bool attribute(Runtime& runtime, const std::string& name, Value& out) override;
  Value next() { return items_.empty() ? Value() : items_[at_++ % items_.size()]; }
  Value reset() { return at_ = 0, Value(); }
  void clear() override { items_.clear(); }

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
};

class CyclerMethod final : public Entity {
 public:
  CyclerMethod(Meter* meter, std::weak_ptr<Cycler> cycler, bool next)
      : Entity(meter, 96), cycler_(std::move(cycler)), next_(next) {}
  const char* type_name() const override { return "method"; }
  Value call(Runtime&, Arguments) override {
    const auto cycler = cycler_.lock();
    return !cycler ? Value() : next_ ? cycler->next() : cycler->reset();
  }

 private:
  std::weak_ptr<Cycler> cycler_;  // which the runtime keeps
  bool next_;
};

class Joiner final : public Entity {
 public:
  Joiner(Meter* meter, Value separator) : Entity(meter, 128), separator_(std::move(separator)) {}
  const char* type_name() const override { return "jinja2.utils.Joiner"; }
  Value call(Runtime& runtime, Arguments) override {
    if (std::exchange(used_, true)) return separator_;
    return runtime.text("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value range(Runtime& runtime, Arguments& arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) {
    fail_type("range expected 1 to 3 arguments");
  }
  for (const Value& value : given) {
    if (value.is(Kind::kUndefined)) fail_undefined(value);
    if (!value.is_integer()) {
      fail_type(fmt::format("'{}' object cannot be interpreted as an integer", type_name(value)));
    }
    constexpr Int kBound = Int{1} << 100;
    if (value.integer() > kBound || value.integer() < -kBound) fail("a range is too large");
  }
  const Int start = given.size() > 1 ? given[0].integer() : 0;
  const Int stop = given.size() > 1 ? given[1].integer() : given[0].integer();
  const Int step = given.size() > 2 ? given[2].integer() : 1;
  if (step == 0) fail("range() arg 3 must not be zero");
  auto made = std::make_shared<Range>(&runtime.meter(), start, stop, step);
  if (made->count > kRangeMax) {
    fail(fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).",
                     kRangeMax));
  }
  return {Kind::kRange, std::move(made)};
}

// dict(pairs or a mapping, name=value, …)
Value dict(Runtime& runtime, Arguments& arguments) {
  std::vector<Pair> pairs;
  if (arguments.positional.size() > 1) fail_type("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is(Kind::kDict)) {
      pairs = from.dict().pairs;
    } else {
      Cursor cursor(from, runtime.meter());
      for (Value item; cursor.next(item);) {
        const std::vector<Value> both = collect(item, runtime.meter());
        if (both.size() != 2) fail("dictionary update sequence element has not length 2");
        pairs.emplace_back(both[0], both[1]);
      }
    }
  }
  for (auto& [name, value] : arguments.named) pairs.emplace_back(runtime.text(name), value);
  return make_dict(&runtime.meter(), std::move(pairs));
}

Value make_namespace(Runtime& runtime, Arguments& arguments) {
  const Value of = dict(runtime, arguments);
  auto made = std::make_shared<Namespace>(&runtime.meter());
  runtime.keep(made);
  for (const auto& [name, value] : of.dict().pairs) {
    if (!name.is(Kind::kText)) fail_type("the names of a namespace must be texts");
    made->set(name.text(), value);
  }
  return {Kind::kEntity, std::move(made)};
}

Value raise_exception(Runtime& runtime, Arguments& arguments) {
  Parameters given(arguments, "raise_exception", {"message"}, 1);
  fail(str(*given.get(0), runtime.meter()));
}

Value strftime_now(Runtime& runtime, Arguments& arguments) {
  Parameters given(arguments, "strftime_now", {"format"}, 1);
  const std::string format = given.text(0, "");
  if (format.size() > kTimeBytesMax / 16) fail("a format of the time is too long");
  if (format.empty()) return runtime.text("");
  std::array<char, kTimeBytesMax> text{};
  // One character more tells an empty result from one that does not fit.
  const size_t size =
      std::strftime(text.data(), text.size(), (format + "x").c_str(), &runtime.now());
  if (size == 0) fail("a format of the time makes too much text");
  std::string made(text.data(), size - 1);
  return runtime.text(std::move(made));
}

Value cycler(Runtime& runtime, Arguments& arguments) {
  if (arguments.positional.empty()) fail("at least one item has to be provided");
  auto made = std::make_shared<Cycler>(&runtime.meter(), arguments.positional);
  runtime.keep(made);
  return {Kind::kEntity, std::move(made)};
}

Value joiner(Runtime& runtime, Arguments& arguments) {
  Parameters given(arguments, "joiner", {"sep"});
  const Value separator = runtime.text(given.text(0, ", "));
  return {Kind::kEntity, std::make_shared<Joiner>(&runtime.meter(), separator)};
}

constexpr std::pair<const char*, Function> kFunctions[] = {
    {"range", range},
    {"dict", dict},
    {"namespace", make_namespace},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
    {"cycler", cycler},
    {"joiner", joiner},
};

}  // namespace

bool Cycler::attribute(Runtime& runtime, const std::string& name, Value& out) {
  if (name == "current") {
    out = items_.empty() ? Value() : items_[at_ % items_.size()];
    return true;
  }
  if (name != "next" && name != "reset") return false;
  out = Value(Kind::kEntity,
              std::make_shared<CyclerMethod>(&runtime.meter(), weak_from_this(), name == "next"));
  return true;
}

bool global(Runtime& runtime, const std::string& name, Value& out) {
  for (const auto& [known, function] : kFunctions) {
    if (name != known) continue;
    out = Value(Kind::kEntity, std::make_shared<Builtin>(&runtime.meter(), known, function));
    return true;
  }
  return false;
}

bool set_attribute(const Value& of, const std::string& name, const Value& value) {
  if (!of.is(Kind::kEntity)) return false;
  auto* target = dynamic_cast<Namespace*>(&of.entity());
  if (target == nullptr) return false;
  target->set(name, value);
  return true;
}

Parameters::Parameters(Arguments& arguments, const char* function,
                       std::initializer_list<const char*> names, size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fail_type(fmt::format("{}() takes {} arguments at most", function, names.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t at = 0;
    for (const char* known : names) {
      if (name == known) break;
      ++at;
    }
    if (at == names.size()) {
      fail_type(
          fmt::format("{}() got an unexpected keyword argument {}", function, repr_text(name)));
    }
    if (values_[at] != nullptr) {
      fail_type(fmt::format("{}() got multiple values for argument {}", function, repr_text(name)));
    }
    values_[at] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      fail_type(
          fmt::format("{}() missing required argument {}", function, repr_text(names.begin()[i])));
    }
  }
}

Int Parameters::integer(size_t i, Int otherwise) const {
  if (get(i) == nullptr) return otherwise;
  if (get(i)->is(Kind::kUndefined)) fail_undefined(*get(i));
  if (!get(i)->is_integer()) {
    fail_type(fmt::format("{}(): '{}' object cannot be interpreted as an integer", function_,
                          type_name(*get(i))));
  }
  return get(i)->integer();
}

std::string Parameters::text(size_t i, std::string otherwise) const {
  if (get(i) == nullptr) return otherwise;
  if (get(i)->is(Kind::kUndefined)) fail_undefined(*get(i));
  if (!get(i)->is(Kind::kText)) {
    fail_type(fmt::format("{}(): expected str, not {}", function_, type_name(*get(i))));
  }
  return get(i)->text();
}

}  // namespace headrace::engine::jinja
