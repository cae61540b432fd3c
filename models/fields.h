// Typed, bounded reading of one JSON object of a config file. Every refusal names the file, the
// field and the value. A null counts as absent, as it does for transformers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace headrace::models {

struct Bounds {  // inclusive
  uint64_t least = 0;
  uint64_t most = 0;
};

// Borrows both arguments. `prefix` ("rope_parameters.") leads the names of fields in messages.
class Fields {
 public:
  Fields(const json::object& object, std::string what, std::string prefix = "")
      : object_(object), what_(std::move(what)), prefix_(std::move(prefix)) {}

  const json::value* find(std::string_view name) const;  // nullptr: absent or null
  bool contains(std::string_view name) const {
    return object_.contains(json::string_view(name.data(), name.size()));
  }                                                                          // or null
  bool asked(std::string_view name) const { return asked_.contains(name); }  // by find
  std::optional<uint64_t> count(std::string_view name, Bounds bounds) const;
  std::optional<double> number(std::string_view name) const;  // finite
  std::optional<bool> flag(std::string_view name) const;
  std::optional<std::string> text(std::string_view name) const;
  std::vector<int64_t> token_ids(std::string_view name) const;  // an id or a list of ids
  std::optional<Fields> inside(std::string_view name) const;    // a nested object

  uint64_t required_count(std::string_view name, Bounds bounds) const;
  double required_number(std::string_view name) const;

  // kFormat: the field is missing, of a wrong type or out of range.
  [[noreturn]] void malformed(std::string_view name, std::string_view why) const;
  // kUnsupported: the field's value asks for arithmetic that this version does not have.
  [[noreturn]] void unsupported(std::string_view name, std::string_view supported) const;

  const std::string& what() const { return what_; }

 private:
  std::string shown(std::string_view name) const;  // the value, cut short, for messages

  const json::object& object_;
  std::string what_;
  std::string prefix_;
  mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace headrace::models
