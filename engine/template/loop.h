// The `loop` of a for block: where it stands, what comes before and after. Looks ahead only when
// asked to, because a condition of the block may read what its body changes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/template/interpreter.h"

namespace headrace::engine::jinja {

class Loop final : public Entity, public std::enable_shared_from_this<Loop> {
 public:
  Loop(Runtime& runtime, const Statement& block, const Value& items, const ScopePtr& around,
       int depth0);

  bool advance(Value& item);  // to the next item that meets the block's condition

  const char* type_name() const override { return "jinja2.runtime.LoopContext"; }
  std::string describe() const override;
  int depth() const override { return value_depth_; }
  bool attribute(Runtime& runtime, const std::string& name, Value& out) override;
  Value call(Runtime& runtime, Arguments arguments) override;  // of a recursive block

 private:
  bool fetch(Value& item);
  bool peek();
  size_t length();
  Value cycle(Runtime& runtime, Arguments& arguments) const;
  bool changed(Arguments& arguments);
  friend class LoopMethod;

  Runtime& runtime_;
  const Statement& block_;
  std::weak_ptr<Scope> around_;  // a loop may live on in what its block has set
  Value items_;
  Cursor cursor_;
  int depth0_, value_depth_;
  size_t index0_ = static_cast<size_t>(-1);
  std::optional<size_t> length_;
  std::vector<Value> ahead_;  // fetched and not yet given, the next one first
  size_t ahead_at_ = 0;
  std::optional<Value> before_, now_;
  std::optional<std::string> last_changed_;
};

}  // namespace headrace::engine::jinja
