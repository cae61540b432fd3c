#include "engine/template/loop.h"

#include <fmt/format.h>

namespace headrace::engine::jinja {

// loop.cycle and loop.changed.
class LoopMethod final : public Entity {
 public:
  LoopMethod(Meter* meter, Value loop, bool cycles)
      : Entity(meter, 128), loop_(std::move(loop)), cycles_(cycles) {}
  const char* type_name() const override { return "method"; }
  int depth() const override { return deeper(depth_of(loop_)); }
  Value call(Runtime& runtime, Arguments arguments) override {
    auto& loop = static_cast<Loop&>(loop_.entity());
    return cycles_ ? loop.cycle(runtime, arguments) : Value(loop.changed(arguments));
  }

 private:
  Value loop_;
  bool cycles_;
};

Loop::Loop(Runtime& runtime, const Statement& block, const Value& items, const ScopePtr& around,
           int depth0)
    : Entity(&runtime.meter(), 512),
      runtime_(runtime),
      block_(block),
      around_(around),
      items_(items),
      cursor_(items, runtime.meter()),
      depth0_(depth0),
      value_depth_(deeper(depth_of(items))) {}

bool Loop::fetch(Value& item) {
  while (cursor_.next(item)) {
    if (!block_.condition) return true;
    const ScopePtr around = around_.lock();
    if (!around) return false;
    const auto scope = std::make_shared<Scope>();
    scope->parent = around;
    runtime_.assign(*block_.target, item, scope);
    if (truth(runtime_.evaluate(*block_.condition, scope))) return true;
  }
  return false;
}

bool Loop::peek() {
  if (ahead_at_ < ahead_.size()) return true;
  Value item;
  if (!fetch(item)) return false;
  ahead_ = {std::move(item)};
  ahead_at_ = 0;
  return true;
}

bool Loop::advance(Value& item) {
  if (ahead_at_ < ahead_.size()) {
    item = ahead_[ahead_at_++];
  } else if (!fetch(item)) {
    return false;
  }
  ++index0_;
  before_ = std::move(now_);
  now_ = item;
  return true;
}

size_t Loop::length() {
  if (length_) return *length_;
  if (!block_.condition && has_length(items_)) {
    length_ = jinja::length(items_);
  } else {
    std::vector<Value> rest(ahead_.begin() + static_cast<std::ptrdiff_t>(ahead_at_), ahead_.end());
    for (Value item; fetch(item);) {
      grow(sizeof(Value));
      rest.push_back(std::move(item));
    }
    ahead_ = std::move(rest);
    ahead_at_ = 0;
    length_ = ahead_.size() + index0_ + 1;
  }
  return *length_;
}

std::string Loop::describe() const {
  return fmt::format("<LoopContext {}/{}>", index0_ + 1, length_.value_or(0));
}

bool Loop::attribute(Runtime& runtime, const std::string& name, Value& out) {
  const auto number = [&](size_t value) { return out = Value(static_cast<Int>(value)), true; };
  if (name == "index") return number(index0_ + 1);
  if (name == "index0") return number(index0_);
  if (name == "first") return out = Value(index0_ == 0), true;
  if (name == "last") return out = Value(!peek()), true;
  if (name == "length") return number(length());
  if (name == "revindex") return number(length() - index0_);
  if (name == "revindex0") return number(length() - index0_ - 1);
  if (name == "depth") return number(static_cast<size_t>(depth0_) + 1);
  if (name == "depth0") return number(static_cast<size_t>(depth0_));
  if (name == "previtem") {
    out = before_ ? *before_ : make_undefined(&runtime.meter(), "there is no previous item");
    return true;
  }
  if (name == "nextitem") {
    out = peek() ? ahead_[ahead_at_] : make_undefined(&runtime.meter(), "there is no next item");
    return true;
  }
  if (name != "cycle" && name != "changed") return false;
  out = Value(Kind::kEntity,
              std::make_shared<LoopMethod>(
                  &runtime.meter(), Value(Kind::kEntity, shared_from_this()), name == "cycle"));
  return true;
}

Value Loop::cycle(Runtime&, Arguments& arguments) const {
  if (arguments.positional.empty()) fail_type("no items for cycling given");
  return arguments.positional[index0_ % arguments.positional.size()];
}

// By what they print as, so that no value is held that could hold this loop.
bool Loop::changed(Arguments& arguments) {
  Sink out(runtime_.meter());
  for (const Value& value : arguments.positional) {
    append_repr(value, out);
    out += '\n';
  }
  std::string now = out.release();
  if (last_changed_ == now) return false;
  grow(now.size());
  last_changed_ = std::move(now);
  return true;
}

Value Loop::call(Runtime& runtime, Arguments arguments) {
  if (!block_.recursive) {
    fail_type("The loop must have the 'recursive' marker to be called recursively.");
  }
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    fail_type("a recursive loop is called with one value");
  }
  const ScopePtr around = around_.lock();
  if (!around) fail("a loop is called behind its end");
  const Runtime::Deeper deeper(runtime);
  Sink out(runtime.meter());
  runtime.run_loop(block_, arguments.positional[0], around, depth0_ + 1, out);
  return out.to_value();
}

}  // namespace headrace::engine::jinja
