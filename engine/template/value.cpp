#include "engine/template/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/template/text.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

int depth_over(const std::vector<Value>& values) {
  int depth = 0;
  for (const Value& value : values) depth = std::max(depth, depth_of(value));
  return deeper(depth);
}

Bytes bytes_of(const std::vector<Value>& values) { return 96 + values.capacity() * sizeof(Value); }

bool same_number(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
  return a.real() == b.real();
}

bool same_dict(const Dict& a, const Dict& b, Meter& meter) {
  if (a.pairs.size() != b.pairs.size()) return false;
  for (const auto& [key, value] : a.pairs) {
    meter.step(1 + b.pairs.size() / 8);
    const Value* other = b.find(key);
    if (other == nullptr || !equal(value, *other, meter)) return false;
  }
  return true;
}

bool same_items(const std::vector<Value>& a, const std::vector<Value>& b, Meter& meter) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(a[i], b[i], meter)) return false;
  }
  return true;
}

size_t items_in(const Value& value) {
  return value.is(Kind::kDict) ? value.dict().pairs.size() : value.view().dict.dict().pairs.size();
}

}  // namespace

int depth_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<const Sequence&>(*value.address()).depth;
    case Kind::kDict:
      return value.dict().depth;
    case Kind::kView:
      return depth_of(value.view().dict) + 1;
    case Kind::kIterator:
      return value.iterator().depth;
    case Kind::kEntity:
      return value.entity().depth();
    default:
      return 0;
  }
}

int deeper(int depth) {
  if (depth >= kValueDepthMax) fail("it nests lists and dictionaries too deeply");
  return depth + 1;
}

void fail(const std::string& message) { throw Error(ErrorCode::kFailed, message); }
void fail_type(const std::string& message) { fail(message); }

Value Entity::call(Runtime&, Arguments) {
  fail_type(fmt::format("'{}' object is not callable", type_name()));
}
std::string Entity::describe() const { return fmt::format("<{}>", type_name()); }

Text::Text(Meter* meter, std::string bytes, bool is_markup)
    : Object(meter, 96 + bytes.size()),
      text(std::move(bytes)),
      markup(is_markup),
      characters(count_characters(text)) {}

Sequence::Sequence(Meter* meter, std::vector<Value> of)
    : Object(meter, bytes_of(of)), values(std::move(of)), depth(depth_over(values)) {}

Iterator::Iterator(Meter* meter, std::vector<Value> of)
    : Object(meter, bytes_of(of)), values(std::move(of)), depth(depth_over(values)) {}

Missing::Missing(Meter* meter, std::string why)
    : Object(meter, 96 + why.size()), message(std::move(why)) {}

Range::Range(Meter* meter, Int first, Int end, Int by)
    : Object(meter, 128), start(first), stop(end), step(by), count(0) {
  if (step > 0 && start < stop) count = (stop - start + step - 1) / step;
  if (step < 0 && start > stop) count = (start - stop - step - 1) / -step;
}

Dict::Dict(Meter* meter, std::vector<Pair> of)
    : Object(meter, 96 + of.capacity() * sizeof(Pair)), pairs(std::move(of)), depth(0) {
  for (const auto& [key, value] : pairs) {
    depth = std::max({depth, depth_of(key), depth_of(value)});
  }
  depth = deeper(depth);
}

bool hashable(const Value& key) {
  if (key.is(Kind::kTuple)) return std::all_of(key.items().begin(), key.items().end(), hashable);
  return !key.is(Kind::kList) && !key.is(Kind::kDict);
}

void require_hashable(const Value& key) {
  if (!hashable(key)) fail_type(fmt::format("unhashable type: '{}'", type_name(key)));
}

const Value* Dict::find(const Value& key) const {
  if (key.is(Kind::kText)) return find(std::string_view(key.text()));
  require_hashable(key);
  Meter own(0, uint64_t{1} << 40);
  Meter& counted = meter() != nullptr ? *meter() : own;
  for (const auto& [name, value] : pairs) {
    if (equal(name, key, counted)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (meter() != nullptr) meter()->step(pairs.size() / 8 + key.size() / 64);
  for (const auto& [name, value] : pairs) {
    if (name.is(Kind::kText) && name.text() == key) return &value;
  }
  return nullptr;
}

double Value::real() const {
  return is(Kind::kFloat) ? scalar_.real : static_cast<double>(integer());
}
const std::string& Value::text() const { return static_cast<const Text&>(*object_).text; }
bool Value::markup() const { return is(Kind::kText) && static_cast<const Text&>(*object_).markup; }
bool Value::ascii() const { return static_cast<const Text&>(*object_).characters == text().size(); }
const std::vector<Value>& Value::items() const {
  return static_cast<const Sequence&>(*object_).values;
}
const Dict& Value::dict() const { return static_cast<const Dict&>(*object_); }
const Range& Value::range() const { return static_cast<const Range&>(*object_); }
const View& Value::view() const { return static_cast<const View&>(*object_); }
Iterator& Value::iterator() const { return static_cast<Iterator&>(*object_); }
Entity& Value::entity() const { return static_cast<Entity&>(*object_); }
const Missing& Value::missing() const { return static_cast<const Missing&>(*object_); }

Value make_text(Meter* meter, std::string text, bool markup) {
  if (meter != nullptr) meter->step(text.size() / 64);
  return {Kind::kText, std::make_shared<Text>(meter, std::move(text), markup)};
}
Value make_list(Meter* meter, std::vector<Value> values) {
  return {Kind::kList, std::make_shared<Sequence>(meter, std::move(values))};
}
Value make_tuple(Meter* meter, std::vector<Value> values) {
  return {Kind::kTuple, std::make_shared<Sequence>(meter, std::move(values))};
}
Value make_iterator(Meter* meter, std::vector<Value> values) {
  return {Kind::kIterator, std::make_shared<Iterator>(meter, std::move(values))};
}
Value make_undefined(Meter* meter, std::string message) {
  if (meter != nullptr) meter->step(message.size() / 16);
  return {Kind::kUndefined, std::make_shared<Missing>(meter, std::move(message))};
}

Value make_dict(Meter* meter, std::vector<Pair> pairs) {
  size_t kept = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    require_hashable(pairs[i].first);
    if (meter != nullptr) meter->step(1 + kept / 8);
    Meter own(0, uint64_t{1} << 40);
    size_t at = 0;
    while (at < kept && !equal(pairs[at].first, pairs[i].first, meter != nullptr ? *meter : own)) {
      ++at;
    }
    if (at < kept) {
      pairs[at].second = std::move(pairs[i].second);
    } else {
      if (kept != i) pairs[kept] = std::move(pairs[i]);
      ++kept;
    }
  }
  pairs.resize(kept);
  return {Kind::kDict, std::make_shared<Dict>(meter, std::move(pairs))};
}

Value from_json(Meter* meter, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return {};
    case json::kind::bool_:
      return Value(value.get_bool());
    case json::kind::int64:
      return Value(Int{value.get_int64()});
    case json::kind::uint64:
      return Value(static_cast<Int>(value.get_uint64()));
    case json::kind::double_:
      return Value(value.get_double());
    case json::kind::string:
      return make_text(meter, std::string(value.get_string()));
    case json::kind::array: {
      std::vector<Value> values;
      values.reserve(value.get_array().size());
      for (const json::value& item : value.get_array()) values.push_back(from_json(meter, item));
      return make_list(meter, std::move(values));
    }
    case json::kind::object:
      break;
  }
  std::vector<Pair> pairs;  // the reader of JSON has refused equal keys
  pairs.reserve(value.get_object().size());
  for (const auto& [key, item] : value.get_object()) {
    pairs.emplace_back(make_text(meter, std::string(key)), from_json(meter, item));
  }
  return {Kind::kDict, std::make_shared<Dict>(meter, std::move(pairs))};
}

Cursor::Cursor(const Value& value, Meter& meter) : value_(value), meter_(&meter) {
  if (!iterable(value)) {
    fail_type(fmt::format("'{}' object is not iterable", type_name(value)));
  }
}

bool Cursor::next(Value& out) {
  meter_->step();
  switch (value_.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      if (at_ == value_.items().size()) return false;
      out = value_.items()[at_++];
      return true;
    case Kind::kDict:
      if (at_ == items_in(value_)) return false;
      out = value_.dict().pairs[at_++].first;
      return true;
    case Kind::kText: {
      const std::string& text = value_.text();
      if (at_ == text.size()) return false;
      const size_t begin = at_;
      next_char(text, at_);
      out = make_text(meter_, text.substr(begin, at_ - begin));
      return true;
    }
    case Kind::kRange: {
      const Range& range = value_.range();
      if (static_cast<Int>(at_) >= range.count) return false;
      out = Value(range.start + static_cast<Int>(at_++) * range.step);
      return true;
    }
    case Kind::kView: {
      const View& view = value_.view();
      if (at_ == items_in(value_)) return false;
      const Pair& pair = view.dict.dict().pairs[at_++];
      out = view.what == View::What::kKeys     ? pair.first
            : view.what == View::What::kValues ? pair.second
                                               : make_tuple(meter_, {pair.first, pair.second});
      return true;
    }
    case Kind::kIterator: {
      Iterator& iterator = value_.iterator();
      if (iterator.at == iterator.values.size()) return false;
      out = iterator.values[iterator.at++];
      return true;
    }
    default:
      return false;  // undefined: nothing
  }
}

std::vector<Value> collect(const Value& value, Meter& meter) {
  std::vector<Value> out;
  Cursor cursor(value, meter);
  // What grows here belongs to no value yet and is counted as it comes.
  if (has_length(value)) out.reserve(length(value));
  for (Value item; cursor.next(item);) out.push_back(std::move(item));
  return out;
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean();
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.real() != 0;
    case Kind::kIterator:
    case Kind::kEntity:
      return true;
    default:
      return length(value) != 0;
  }
}

bool equal(const Value& a, const Value& b, Meter& meter) {
  meter.step();
  if (a.is_number() && b.is_number()) return same_number(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kText:
      meter.step(a.text().size() / 64);
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
      return a.address() == b.address() || same_items(a.items(), b.items(), meter);
    case Kind::kDict:
      return a.address() == b.address() || same_dict(a.dict(), b.dict(), meter);
    case Kind::kRange: {
      const Range &x = a.range(), &y = b.range();
      return x.count == y.count &&
             (x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step)));
    }
    default:
      return a.address() == b.address();
  }
}

bool less(const Value& a, const Value& b, Meter& meter, const char* shown) {
  meter.step();
  if (a.is(Kind::kUndefined)) fail_undefined(a);
  if (b.is(Kind::kUndefined)) fail_undefined(b);
  if (a.is_integer() && b.is_integer()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.real() < b.real();
  if (a.is(Kind::kText) && b.is(Kind::kText)) {
    meter.step(std::min(a.text().size(), b.text().size()) / 64);
    return a.text() < b.text();  // the order of UTF-8 is that of characters
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const size_t both = std::min(a.items().size(), b.items().size());
    for (size_t i = 0; i < both; ++i) {
      if (!equal(a.items()[i], b.items()[i], meter)) {
        return less(a.items()[i], b.items()[i], meter, shown);
      }
    }
    return a.items().size() < b.items().size();
  }
  fail_type(fmt::format("'{}' not supported between instances of '{}' and '{}'", shown,
                        type_name(a), type_name(b)));
}

bool less_or_equal(const Value& a, const Value& b, Meter& meter, const char* shown) {
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() <= b.integer() : a.real() <= b.real();
  }
  return less(a, b, meter, shown) || equal(a, b, meter);
}

bool contains(const Value& container, const Value& item, Meter& meter) {
  if (container.is(Kind::kText)) {
    if (item.is(Kind::kUndefined)) fail_undefined(item);
    if (!item.is(Kind::kText)) {
      fail_type(
          fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
    }
    return find_text(container.text(), item.text(), 0, meter) != std::string::npos;
  }
  if (container.is(Kind::kDict)) return container.dict().find(item) != nullptr;
  if (!iterable(container)) {
    fail_type(fmt::format("argument of type '{}' is not iterable", type_name(container)));
  }
  Cursor cursor(container, meter);
  for (Value each; cursor.next(each);) {
    if (equal(each, item, meter)) return true;
  }
  return false;
}

bool iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
    case Kind::kEntity:
      return false;
    default:
      return true;
  }
}

bool has_length(const Value& value) { return iterable(value) && !value.is(Kind::kIterator); }

size_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kText:
      return static_cast<const Text&>(*value.address()).characters;
    case Kind::kList:
    case Kind::kTuple:
      return value.items().size();
    case Kind::kDict:
    case Kind::kView:
      return items_in(value);
    case Kind::kRange:
      return static_cast<size_t>(value.range().count);
    default:
      fail_type(fmt::format("object of type '{}' has no len()", type_name(value)));
  }
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kText:
      return value.markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      return value.view().what == View::What::kKeys     ? "dict_keys"
             : value.view().what == View::What::kValues ? "dict_values"
                                                        : "dict_items";
    case Kind::kIterator:
      return "generator";
    case Kind::kEntity:
      break;
  }
  return value.entity().type_name();
}

std::string object_type(const Value& value) {
  if (value.is(Kind::kNone)) return "None";
  return fmt::format("{} object", type_name(value));
}

void fail_undefined(const Value& value) { fail(value.missing().message); }

}  // namespace headrace::engine::jinja
