// Filters on what has items: order, selection, grouping, joining.
#include <fmt/format.h>

#include <algorithm>

#include "engine/template/interpreter.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::jinja {
namespace {

// Texts compare without case unless they are told to.
Value without_case(Runtime& runtime, const Value& value) {
  if (!value.is(Kind::kText)) return value;
  runtime.meter().step(value.text().size() / 16);
  return runtime.text(to_lower(value.text()));
}

// "a.b.0" of an attribute parameter: names and numbers.
std::vector<Value> path_of(Runtime& runtime, const Value& attribute) {
  std::vector<Value> parts;
  if (attribute.is(Kind::kNone)) return parts;
  if (!attribute.is(Kind::kText)) return {attribute};
  const std::string& text = attribute.text();
  for (size_t begin = 0; begin <= text.size();) {
    runtime.meter().step();
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 18 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    parts.push_back(number ? Value(static_cast<Int>(std::stoll(part))) : runtime.text(part));
    begin = end + 1;
  }
  return parts;
}

Value follow(Runtime& runtime, Value value, const std::vector<Value>& path,
             const Value* otherwise = nullptr) {
  for (const Value& part : path) {
    runtime.meter().step();
    value = runtime.item(value, part);
    if (otherwise != nullptr && value.is(Kind::kUndefined)) value = *otherwise;
  }
  return value;
}

// Keys of a sort, computed once.
struct Keyed {
  std::vector<Value> keys;
  Value value;
};

void sort_by_keys(Runtime& runtime, std::vector<Keyed>& items, bool reverse) {
  const auto before = [&](const Keyed& a, const Keyed& b) {
    for (size_t i = 0; i < a.keys.size(); ++i) {
      if (equal(a.keys[i], b.keys[i], runtime.meter())) continue;
      return less(a.keys[i], b.keys[i], runtime.meter());
    }
    return false;
  };
  // Reversed, equal ones keep their order too.
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? before(b, a) : before(a, b);
  });
}

Value sort(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "sort", {"reverse", "case_sensitive", "attribute"});
  std::vector<std::vector<Value>> paths;
  if (given.get(2) != nullptr && given.get(2)->is(Kind::kText)) {
    const std::string text = given.text(2, "");
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      paths.push_back(path_of(runtime, runtime.text(text.substr(begin, end - begin))));
      begin = end + 1;
    }
  } else {
    paths.push_back(path_of(runtime, given.get(2) != nullptr ? *given.get(2) : Value()));
  }
  std::vector<Keyed> items;
  for (Value& value : collect(input, runtime.meter())) {
    Keyed item{{}, value};
    for (const auto& path : paths) {
      Value key = follow(runtime, value, path);
      item.keys.push_back(given.flag(1, false) ? key : without_case(runtime, key));
    }
    items.push_back(std::move(item));
  }
  sort_by_keys(runtime, items, given.flag(0, false));
  std::vector<Value> out;
  for (Keyed& item : items) out.push_back(std::move(item.value));
  return make_list(&runtime.meter(), std::move(out));
}

Value dict_sort(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "dictsort", {"case_sensitive", "by", "reverse"});
  const std::string by = given.text(1, "key");
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  if (!input.is(Kind::kDict)) {
    fail(fmt::format("'{}' has no attribute 'items'", object_type(input)));
  }
  std::vector<Keyed> items;
  runtime.meter().step(input.dict().pairs.size());
  for (const auto& [key, value] : input.dict().pairs) {
    const Value& which = by == "key" ? key : value;
    items.push_back({{given.flag(0, false) ? which : without_case(runtime, which)},
                     make_tuple(&runtime.meter(), {key, value})});
  }
  sort_by_keys(runtime, items, given.flag(2, false));
  std::vector<Value> out;
  for (Keyed& item : items) out.push_back(std::move(item.value));
  return make_list(&runtime.meter(), std::move(out));
}

Value unique(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "unique", {"case_sensitive", "attribute"});
  const auto path = path_of(runtime, given.get(1) != nullptr ? *given.get(1) : Value());
  std::vector<Value> seen, out;
  for (Value& value : collect(input, runtime.meter())) {
    Value key = follow(runtime, value, path);
    if (!given.flag(0, false)) key = without_case(runtime, key);
    require_hashable(key);
    const bool known = std::any_of(seen.begin(), seen.end(), [&](const Value& other) {
      return equal(other, key, runtime.meter());
    });
    if (known) continue;
    seen.push_back(std::move(key));
    out.push_back(std::move(value));
  }
  return make_iterator(&runtime.meter(), std::move(out));
}

template <bool kMost>
Value extreme(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "min", {"case_sensitive", "attribute"});
  const auto path = path_of(runtime, given.get(1) != nullptr ? *given.get(1) : Value());
  const std::vector<Value> values = collect(input, runtime.meter());
  if (values.empty()) {
    return make_undefined(&runtime.meter(), "No aggregated item, sequence was empty.");
  }
  const auto key_of = [&](const Value& value) {
    const Value key = follow(runtime, value, path);
    return given.flag(0, false) ? key : without_case(runtime, key);
  };
  const Value* best = &values[0];
  Value best_key = key_of(*best);
  for (size_t i = 1; i < values.size(); ++i) {
    Value key = key_of(values[i]);
    if (!(kMost ? less(best_key, key, runtime.meter(), ">") : less(key, best_key, runtime.meter())))
      continue;
    best = &values[i];
    best_key = std::move(key);
  }
  return *best;
}

Value sum(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "sum", {"attribute", "start"});
  const auto path = path_of(runtime, given.get(0) != nullptr ? *given.get(0) : Value());
  Value total = given.get(1) != nullptr ? *given.get(1) : Value(Int{0});
  if (total.is(Kind::kText)) fail_type("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& value : collect(input, runtime.meter())) {
    total = arithmetic(runtime, Operator::kAdd, total, follow(runtime, value, path));
  }
  return total;
}

Value join(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "join", {"d", "attribute"});
  const std::string between = given.get(0) != nullptr ? str(*given.get(0), runtime.meter()) : "";
  const bool by_path = given.get(1) != nullptr && !given.get(1)->is(Kind::kNone);
  const auto path = path_of(runtime, by_path ? *given.get(1) : Value());
  Sink out(runtime.meter());
  Cursor cursor(input, runtime.meter());
  bool first = true;
  for (Value item; cursor.next(item);) {
    if (!first) out += between;
    first = false;
    append_str(by_path ? follow(runtime, item, path) : item, out);
  }
  return out.to_value();
}

Value first(Runtime& runtime, const Value& input, Arguments&) {
  Cursor cursor(input, runtime.meter());
  Value item;
  if (cursor.next(item)) return item;
  return make_undefined(&runtime.meter(), "No first item, sequence was empty.");
}

Value last(Runtime& runtime, const Value& input, Arguments&) {
  if (input.is(Kind::kIterator)) fail_type("'generator' object is not reversible");
  const std::vector<Value> values = collect(input, runtime.meter());
  if (!values.empty()) return values.back();
  return make_undefined(&runtime.meter(), "No last item, sequence was empty.");
}

Value count(Runtime&, const Value& input, Arguments&) {
  return Value(static_cast<Int>(length(input)));
}

Value list(Runtime& runtime, const Value& input, Arguments&) {
  return make_list(&runtime.meter(), collect(input, runtime.meter()));
}

Value items(Runtime& runtime, const Value& input, Arguments&) {
  if (input.is(Kind::kUndefined)) return make_iterator(&runtime.meter(), {});
  if (!input.is(Kind::kDict)) fail_type("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  runtime.meter().step(input.dict().pairs.size());
  for (const auto& [key, value] : input.dict().pairs) {
    pairs.push_back(make_tuple(&runtime.meter(), {key, value}));
  }
  return make_iterator(&runtime.meter(), std::move(pairs));
}

Value reverse(Runtime& runtime, const Value& input, Arguments&) {
  std::vector<Value> values = collect(input, runtime.meter());
  std::reverse(values.begin(), values.end());
  if (!input.is(Kind::kText)) return make_iterator(&runtime.meter(), std::move(values));
  Sink out(runtime.meter());
  for (const Value& value : values) out += value.text();
  return out.to_value();
}

Value attr(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "attr", {"name"}, 1);
  const std::string name = str(*given.get(0), runtime.meter());
  if (input.is(Kind::kUndefined)) fail_undefined(input);
  Value found;
  if (method(runtime, input, name, found)) return found;
  return make_undefined(&runtime.meter(), fmt::format("'{}' has no attribute {}",
                                                      object_type(input), repr_text(name)));
}

Value map(Runtime& runtime, const Value& input, Arguments& a) {
  std::vector<Value> out;
  if (!truth(input)) return make_iterator(&runtime.meter(), {});
  if (a.positional.empty()) {
    Parameters given(a, "map", {"attribute", "default"}, 1);
    const auto path = path_of(runtime, *given.get(0));
    // An attribute that is missing becomes the default, unless that is none.
    const Value* otherwise =
        given.get(1) != nullptr && !given.get(1)->is(Kind::kNone) ? given.get(1) : nullptr;
    for (const Value& value : collect(input, runtime.meter())) {
      out.push_back(follow(runtime, value, path, otherwise));
    }
    return make_iterator(&runtime.meter(), std::move(out));
  }
  const std::string name = str(a.positional.front(), runtime.meter());
  a.positional.erase(a.positional.begin());
  for (const Value& value : collect(input, runtime.meter())) {
    out.push_back(runtime.filter(name, value, a));
  }
  return make_iterator(&runtime.meter(), std::move(out));
}

template <bool kWanted, bool kByAttribute>
Value select(Runtime& runtime, const Value& input, Arguments& a) {
  if (!truth(input)) return make_iterator(&runtime.meter(), {});
  std::vector<Value> path;
  if (kByAttribute) {
    if (a.positional.empty()) fail("Missing parameter for attribute name");
    path = path_of(runtime, a.positional.front());
    a.positional.erase(a.positional.begin());
  }
  std::string name;
  if (!a.positional.empty()) {
    name = str(a.positional.front(), runtime.meter());
    a.positional.erase(a.positional.begin());
  }
  std::vector<Value> out;
  for (Value& value : collect(input, runtime.meter())) {
    const Value looked_at = kByAttribute ? follow(runtime, value, path) : value;
    const bool holds = name.empty() ? truth(looked_at) : runtime.test(name, looked_at, a);
    if (holds == kWanted) out.push_back(std::move(value));
  }
  return make_iterator(&runtime.meter(), std::move(out));
}

Value batch(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "batch", {"linecount", "fill_with"}, 1);
  const Int size = given.integer(0, 1);
  if (size < 1 || size > 1'000'000) fail("a batch has 1 to 1000000 items");
  std::vector<Value> rows, row;
  for (Value& value : collect(input, runtime.meter())) {
    if (static_cast<Int>(row.size()) == size) {
      rows.push_back(make_list(&runtime.meter(), std::exchange(row, {})));
    }
    row.push_back(std::move(value));
  }
  if (!row.empty()) {
    const bool fills = given.get(1) != nullptr && !given.get(1)->is(Kind::kNone);
    if (fills) runtime.meter().step(static_cast<uint64_t>(size));
    while (fills && static_cast<Int>(row.size()) < size) row.push_back(*given.get(1));
    rows.push_back(make_list(&runtime.meter(), std::move(row)));
  }
  return make_iterator(&runtime.meter(), std::move(rows));
}

Value slices(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "slice", {"slices", "fill_with"}, 1);
  const Int count = given.integer(0, 1);
  if (count < 1 || count > 1'000'000) fail("slice makes 1 to 1000000 lists");
  const std::vector<Value> values = collect(input, runtime.meter());
  const size_t rows = static_cast<size_t>(count);
  runtime.meter().step(rows);
  const size_t each = values.size() / rows, more = values.size() % rows;
  std::vector<Value> out;
  for (size_t i = 0, at = 0; i < rows; ++i) {
    const size_t size = each + (i < more ? 1 : 0);
    std::vector<Value> row(values.begin() + static_cast<std::ptrdiff_t>(at),
                           values.begin() + static_cast<std::ptrdiff_t>(at + size));
    at += size;
    if (given.get(1) != nullptr && !given.get(1)->is(Kind::kNone) && i >= more) {
      row.push_back(*given.get(1));
    }
    out.push_back(make_list(&runtime.meter(), std::move(row)));
  }
  return make_iterator(&runtime.meter(), std::move(out));
}

// Tuples of a key and what has it, in the order of the keys.
Value group_by(Runtime& runtime, const Value& input, Arguments& a) {
  Parameters given(a, "groupby", {"attribute", "default", "case_sensitive"}, 1);
  const auto path = path_of(runtime, *given.get(0));
  const Value* otherwise =
      given.get(1) != nullptr && !given.get(1)->is(Kind::kNone) ? given.get(1) : nullptr;
  std::vector<Keyed> items;
  for (Value& value : collect(input, runtime.meter())) {
    const Value key = follow(runtime, value, path, otherwise);
    items.push_back({{given.flag(2, false) ? key : without_case(runtime, key)}, value});
  }
  sort_by_keys(runtime, items, false);
  std::vector<Value> groups;
  for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    std::vector<Value> group;
    while (end < items.size() && equal(items[begin].keys[0], items[end].keys[0], runtime.meter())) {
      group.push_back(items[end++].value);
    }
    const Value key = follow(runtime, group[0], path, otherwise);
    groups.push_back(
        make_tuple(&runtime.meter(), {key, make_list(&runtime.meter(), std::move(group))}));
  }
  return make_list(&runtime.meter(), std::move(groups));
}

constexpr std::pair<const char*, Filter> kFilters[] = {
    {"attr", attr},
    {"batch", batch},
    {"count", count},
    {"dictsort", dict_sort},
    {"first", first},
    {"groupby", group_by},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", count},
    {"list", list},
    {"map", map},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reject", select<false, false>},
    {"rejectattr", select<false, true>},
    {"reverse", reverse},
    {"select", select<true, false>},
    {"selectattr", select<true, true>},
    {"slice", slices},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

Filter find_sequence_filter(const std::string& name) {
  for (const auto& [known, function] : kFilters) {
    if (name == known) return function;
  }
  return nullptr;
}

}  // namespace headrace::engine::jinja
