// Values of the template language, which are Python's: integers, floats, texts, lists, tuples,
// dictionaries in insertion order, and objects with attributes or calls. All but iterators,
// namespaces and loops are immutable once made, as the sandbox of chat templates asks for, so that
// copies share. What lives is counted by a Meter, which also counts steps: templates are hostile.
// Used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/tier.h"

namespace headrace::engine::jinja {

__extension__ typedef __int128 Int;

// A fault of the template or of what it was given; the line is added by who knows it.
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void fail_type(const std::string& message);  // Python's TypeError

// Throws when a template takes more than it may.
class Meter {
 public:
  Meter(Bytes bytes_max, uint64_t steps_max) : bytes_left_(bytes_max), steps_left_(steps_max) {}
  void take(Bytes bytes) {
    if (bytes > bytes_left_)
      fail("it takes more memory than a template may; shorten what it makes");
    bytes_left_ -= bytes;
  }
  void give(Bytes bytes) { bytes_left_ += bytes; }
  void step(uint64_t steps = 1) {
    if (steps > steps_left_)
      fail("it takes more steps than a template may; look for an endless loop");
    steps_left_ -= steps;
  }

 private:
  Bytes bytes_left_;
  uint64_t steps_left_;
};

class Value;
class Runtime;  // interpreter.h: what calls need

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What a value refers to, counted while it lives.
class Object {
 public:
  Object(Meter* meter, Bytes bytes) : meter_(meter), bytes_(bytes) {
    if (meter_ != nullptr) meter_->take(bytes_);
  }
  virtual ~Object() {
    if (meter_ != nullptr) meter_->give(bytes_);
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  Meter* meter() const { return meter_; }

 protected:
  void grow(Bytes bytes) {
    if (meter_ != nullptr) meter_->take(bytes);
    bytes_ += bytes;
  }

 private:
  Meter* meter_;
  Bytes bytes_;
};

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kList,
  kTuple,
  kDict,
  kRange,
  kView,      // dict.keys(), values(), items()
  kIterator,  // runs once
  kEntity,    // functions, macros, loops, namespaces
};

struct Text;
struct Sequence;
struct Dict;
struct Range;
struct View;
struct Iterator;
class Entity;
struct Missing;

class Value {
 public:
  Value() = default;  // none
  explicit Value(bool b) : kind_(Kind::kBool) { scalar_.boolean = b; }
  explicit Value(Int i) : kind_(Kind::kInt) { scalar_.integer = i; }
  explicit Value(double d) : kind_(Kind::kFloat) { scalar_.real = d; }
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return is(Kind::kBool) || is(Kind::kInt) || is(Kind::kFloat); }
  bool is_integer() const { return is(Kind::kBool) || is(Kind::kInt); }
  bool is_sequence() const { return is(Kind::kList) || is(Kind::kTuple); }

  bool boolean() const { return scalar_.boolean; }
  Int integer() const { return is(Kind::kBool) ? Int{scalar_.boolean} : scalar_.integer; }
  double real() const;  // of any number
  const std::string& text() const;
  bool markup() const;  // a text marked safe: what joins it is escaped
  bool ascii() const;
  const std::vector<Value>& items() const;  // of a list or tuple
  const Dict& dict() const;
  const Range& range() const;
  const View& view() const;
  Iterator& iterator() const;
  Entity& entity() const;
  const Missing& missing() const;
  const Object* address() const { return object_.get(); }
  const std::shared_ptr<Object>& object() const { return object_; }

 private:
  Kind kind_ = Kind::kNone;
  union Scalar {
    bool boolean;
    double real;
    Int integer = 0;
  } scalar_;
  std::shared_ptr<Object> object_;
};

using Pair = std::pair<Value, Value>;

// How deep lists and dictionaries may nest: bounds every recursion over a value.
inline constexpr int kValueDepthMax = 400;

struct Text final : Object {
  Text(Meter* meter, std::string bytes, bool is_markup);
  std::string text;
  bool markup;
  size_t characters;
};

struct Sequence final : Object {
  Sequence(Meter* meter, std::vector<Value> values);
  std::vector<Value> values;
  int depth;
};

struct Dict final : Object {
  Dict(Meter* meter, std::vector<Pair> of);
  const Value* find(const Value& key) const;  // throws on a key that is not hashable
  const Value* find(std::string_view key) const;
  std::vector<Pair> pairs;
  int depth;
};

struct Range final : Object {
  Range(Meter* meter, Int first, Int end, Int by);
  Int start, stop, step, count;
};

struct View final : Object {
  enum class What : uint8_t { kKeys, kValues, kItems };
  View(Meter* meter, Value of, What which) : Object(meter, 96), dict(std::move(of)), what(which) {}
  Value dict;
  What what;
};

struct Missing final : Object {
  Missing(Meter* meter, std::string why);
  std::string message;  // what is raised where it is used
};

// Something with attributes of its own, a call, or both.
class Entity : public Object {
 public:
  using Object::Object;
  virtual const char* type_name() const = 0;  // as Python prints it
  virtual std::string describe() const;
  virtual bool attribute(Runtime&, const std::string&, Value&) { return false; }
  virtual bool can_call() const { return true; }
  virtual int depth() const { return 0; }
  virtual Value call(Runtime& runtime, Arguments arguments);
};

// Steps through what a value consists of: items, characters, keys.
class Cursor {
 public:
  Cursor(const Value& value, Meter& meter);  // throws fail_type when it cannot be iterated
  bool next(Value& out);

 private:
  Value value_;
  Meter* meter_;
  size_t at_ = 0;
};

struct Iterator final : Object {
  Iterator(Meter* meter, std::vector<Value> of);
  std::vector<Value> values;
  size_t at = 0;
  int depth;
};

Value make_text(Meter* meter, std::string text, bool markup = false);
Value make_list(Meter* meter, std::vector<Value> values);
Value make_tuple(Meter* meter, std::vector<Value> values);
Value make_dict(Meter* meter, std::vector<Pair> pairs);  // later keys win, in the first's place
Value make_iterator(Meter* meter, std::vector<Value> values);
Value make_undefined(Meter* meter, std::string message);
Value from_json(Meter* meter, const json::value& value);

std::vector<Value> collect(const Value& value, Meter& meter);  // list(value)

bool truth(const Value& value);
bool equal(const Value& a, const Value& b, Meter& meter);
// a < b; fail_type where Python has no order.
bool less(const Value& a, const Value& b, Meter& meter, const char* shown = "<");
bool less_or_equal(const Value& a, const Value& b, Meter& meter, const char* shown);
bool contains(const Value& container, const Value& item, Meter& meter);
bool has_length(const Value& value);
size_t length(const Value& value);  // fail_type where there is none
bool iterable(const Value& value);
bool hashable(const Value& key);
void require_hashable(const Value& key);
int depth_of(const Value& value);  // how deep it nests
int deeper(int depth);             // one more; throws at kValueDepthMax

const char* type_name(const Value& value);    // "str", "NoneType"
std::string object_type(const Value& value);  // as messages of undefined say it: "dict object"
[[noreturn]] void fail_undefined(const Value& value);

}  // namespace headrace::engine::jinja
