// What texts, lists and dictionaries can do. The sandbox of chat templates hides what would change
// them.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {
namespace {

class BoundMethod final : public Entity {
 public:
  BoundMethod(Meter* meter, const Value& self, std::string name, Method function)
      : Entity(meter, 192),
        self_(self),
        name_(std::move(name)),
        function_(function),
        depth_(deeper(depth_of(self))) {}
  const char* type_name() const override { return "builtin_function_or_method"; }
  std::string describe() const override {
    return fmt::format("<built-in method {} of {} object>", name_, jinja::type_name(self_));
  }
  int depth() const override { return depth_; }
  Value call(Runtime& runtime, Arguments arguments) override {
    runtime.count_given(self_);
    return function_(runtime, self_, arguments);
  }

 private:
  Value self_;
  std::string name_;
  Method function_;
  int depth_;
};

Value bound(Runtime& runtime, const Value& self, const std::string& name, Method function) {
  return {Kind::kEntity, std::make_shared<BoundMethod>(&runtime.meter(), self, name, function)};
}

template <size_t N>
bool is_one_of(const std::string& name, const std::array<const char*, N>& names) {
  return std::any_of(names.begin(), names.end(), [&](const char* each) { return name == each; });
}

// An attribute that the sandbox hides: not there, and an error only where it is used.
bool hidden(Runtime& runtime, const Value& of, const std::string& name, Value& out) {
  constexpr std::array kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  constexpr std::array kList = {"append", "clear", "pop",    "reverse",
                                "insert", "sort",  "extend", "remove"};
  const bool special = name.starts_with("__") && name.ends_with("__") && name.size() > 4;
  if (!special && !(of.is(Kind::kDict) && is_one_of(name, kDict)) &&
      !(of.is(Kind::kList) && is_one_of(name, kList))) {
    return false;
  }
  out = make_undefined(&runtime.meter(),
                       fmt::format("access to attribute {} of '{}' object is unsafe.",
                                   repr_text(name), type_name(of)));
  return true;
}

Value view_of(Runtime& runtime, const Value& self, View::What what) {
  return {Kind::kView, std::make_shared<View>(&runtime.meter(), self, what)};
}

Method dict_method(const std::string& name) {
  if (name == "items") {
    return [](Runtime& r, const Value& self, Arguments& a) {
      Parameters given(a, "items", {});
      return view_of(r, self, View::What::kItems);
    };
  }
  if (name == "keys") {
    return [](Runtime& r, const Value& self, Arguments& a) {
      Parameters given(a, "keys", {});
      return view_of(r, self, View::What::kKeys);
    };
  }
  if (name == "values") {
    return [](Runtime& r, const Value& self, Arguments& a) {
      Parameters given(a, "values", {});
      return view_of(r, self, View::What::kValues);
    };
  }
  if (name == "get") {
    return [](Runtime&, const Value& self, Arguments& a) {
      if (!a.named.empty()) fail_type("dict.get() takes no keyword arguments");
      Parameters given(a, "get", {"key", "default"}, 1);
      const Value* found = self.dict().find(*given.get(0));
      return found != nullptr ? *found : given.get(1) != nullptr ? *given.get(1) : Value();
    };
  }
  if (name == "copy") return [](Runtime&, const Value& self, Arguments&) { return self; };
  return nullptr;
}

Method list_method(const std::string& name) {
  if (name == "count") {
    return [](Runtime& r, const Value& self, Arguments& a) {
      Parameters given(a, "count", {"value"}, 1);
      Int count = 0;
      for (const Value& each : self.items()) count += equal(each, *given.get(0), r.meter()) ? 1 : 0;
      return Value(count);
    };
  }
  if (name == "index") {
    return [](Runtime& r, const Value& self, Arguments& a) {
      Parameters given(a, "index", {"value"}, 1);
      for (size_t i = 0; i < self.items().size(); ++i) {
        if (equal(self.items()[i], *given.get(0), r.meter())) return Value(static_cast<Int>(i));
      }
      fail(fmt::format("{} is not in list", repr(*given.get(0), r.meter())));
    };
  }
  if (name == "copy") return [](Runtime&, const Value& self, Arguments&) { return self; };
  return nullptr;
}

}  // namespace

bool method(Runtime& runtime, const Value& of, const std::string& name, Value& out) {
  if (of.is(Kind::kEntity) && of.entity().attribute(runtime, name, out)) return true;
  if (hidden(runtime, of, name, out)) return true;
  Method found = nullptr;
  if (of.is(Kind::kText)) found = text_method(name);
  if (of.is(Kind::kDict)) found = dict_method(name);
  if (of.is_sequence() && !(of.is(Kind::kTuple) && name == "copy")) found = list_method(name);
  if (found == nullptr) return false;
  out = bound(runtime, of, name, found);
  return true;
}

}  // namespace headrace::engine::jinja
