// Runs a parsed template. One Runtime renders once, on one thread; it owns what could refer to
// itself (namespaces, scopes of macros) and takes it apart at its end.
#pragma once

#include <ctime>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/template/ast.h"
#include "engine/template/text.h"
#include "engine/template/value.h"

namespace headrace::engine::jinja {

// The names of a block; what is set inside is not seen outside.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> names;

  void set(const std::string& name, Value value, Meter& meter);
  const Value* find(const std::string& name, Meter& meter) const;  // here or around
};
using ScopePtr = std::shared_ptr<Scope>;

enum class Flow : uint8_t { kNext, kBreak, kContinue };

class Runtime {
 public:
  Runtime(Meter& meter, const std::tm& now);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  std::string render(const Body& body, std::vector<std::pair<std::string, Value>> names);
  uint32_t line() const { return line_; }  // of what ran last: where an error came from

  Meter& meter() { return meter_; }
  // What is given to a filter, a method or a function is read there, or copied.
  void count_given(const Value& input);
  void count_given(const Arguments& arguments);
  const std::tm& now() const { return now_; }
  Value evaluate(const Expression& e, const ScopePtr& scope);
  Flow run(const Body& body, const ScopePtr& scope, Sink& out);
  Flow run_loop(const Statement& s, const Value& items, const ScopePtr& scope, int depth,
                Sink& out);
  Value run_macro(const MacroShape& macro, const ScopePtr& around, Arguments arguments);

  Value call(const Value& callee, Arguments arguments);
  Value attribute(const Value& of, const std::string& name);  // of.name
  Value item(const Value& of, const Value& key);              // of[key]
  Value filter(const std::string& name, const Value& input, Arguments arguments);
  bool test(const std::string& name, const Value& input, Arguments arguments);
  void assign(const Expression& target, const Value& value, const ScopePtr& scope);

  Value text(std::string bytes, bool markup = false) {
    return make_text(&meter_, std::move(bytes), markup);
  }
  void keep(std::shared_ptr<Object> cyclic);  // taken apart at the end

  // Counts how deep evaluation is: the stack is finite.
  class Deeper {
   public:
    explicit Deeper(Runtime& runtime) : depth_(runtime.depth_) {
      if (depth_ >= kDepthMax) fail("it calls itself too deeply");
      ++depth_;
    }
    ~Deeper() { --depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    static constexpr int kDepthMax = 1500;
    int& depth_;
  };

 private:
  friend class Deeper;
  Flow run_one(const Statement& s, const ScopePtr& scope, Sink& out);
  void set_block(const Statement& s, const ScopePtr& scope);
  Value apply_filters(const Expression& e, const Value& input, const ScopePtr& scope);
  Arguments arguments_of(const Expression& e, const ScopePtr& scope);
  Value make_macro(const std::shared_ptr<MacroShape>& shape, const ScopePtr& scope);
  Value compare(const Expression& e, const ScopePtr& scope);
  Value slice(const Value& of, const Expression& bounds, const ScopePtr& scope);
  Value name(const std::string& name, const ScopePtr& scope);
  Value dict(const Expression& e, const ScopePtr& scope);
  Value sequence(const Expression& e, const ScopePtr& scope);
  Value choose(const Expression& e, const ScopePtr& scope);
  Value concatenate(const Expression& e, const ScopePtr& scope);

  Meter& meter_;
  std::tm now_;
  uint32_t line_ = 1;
  int depth_ = 0;
  std::vector<ScopePtr> scopes_;
  std::vector<std::shared_ptr<Object>> kept_;
};

// Objects that the runtime must take apart.
class Cyclic {
 public:
  virtual ~Cyclic() = default;
  virtual void clear() = 0;
};

// The arguments of a built-in by parameter. Throws fail_type on too many and unknown ones.
class Parameters {
 public:
  Parameters(Arguments& arguments, const char* function, std::initializer_list<const char*> names,
             size_t required = 0);
  const Value* get(size_t i) const { return values_[i]; }
  bool flag(size_t i, bool otherwise) const { return get(i) ? truth(*get(i)) : otherwise; }
  Int integer(size_t i, Int otherwise) const;
  std::string text(size_t i, std::string otherwise) const;

 private:
  const char* function_;
  std::vector<const Value*> values_;
};

// operators.cpp
Value negative(Runtime& runtime, const Value& a);
Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b);
Value slice_value(Runtime& runtime, const Value& of, const Value& begin, const Value& end,
                  const Value& step);

// functions.cpp: range, dict, namespace, raise_exception, …
bool global(Runtime& runtime, const std::string& name, Value& out);
bool set_attribute(const Value& of, const std::string& name, const Value& value);  // a namespace's

// methods.cpp: what texts, lists and dictionaries can do; false: no such attribute.
bool method(Runtime& runtime, const Value& of, const std::string& name, Value& out);
// text.replace(old, with, most) and the three ways to fill a text up to a width (side 0: both).
Value replace_in(Runtime& runtime, const Value& text, const std::string& old,
                 const std::string& with, Int most);
Value pad_text(Runtime& runtime, const Value& text, Int width, const std::string& fill, int side);
using Method = Value (*)(Runtime&, const Value&, Arguments&);
Method text_method(const std::string& name);

// filters.cpp, filters_sequence.cpp, tests.cpp
using Filter = Value (*)(Runtime&, const Value&, Arguments&);
Filter find_filter(const std::string& name);
Filter find_sequence_filter(const std::string& name);
using Test = bool (*)(Runtime&, const Value&, Arguments&);
Test find_test(const std::string& name);

// format.cpp
Value format_percent(Runtime& runtime, const std::string& format, const Value& values);
Value format_braces(Runtime& runtime, const std::string& format, Arguments& arguments);

}  // namespace headrace::engine::jinja
