#include "models/fields.h"

#include <fmt/format.h>

#include <cmath>

namespace headrace::models {

namespace {

constexpr size_t kShownMax = 80;  // characters of a value in a message

// JSON writers disagree on whether 1 is 1.0; an integer in floating-point clothes is accepted.
std::optional<int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_uint64()) {
    if (value.get_uint64() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(value.get_uint64());
  }
  if (value.is_double()) {
    const double x = value.get_double();
    if (std::abs(x) <= 0x1p53 && x == std::floor(x)) return static_cast<int64_t>(x);
  }
  return std::nullopt;
}

}  // namespace

const json::value* Fields::find(std::string_view name) const {
  asked_.emplace(name);
  const json::value* value = object_.if_contains(json::string_view(name.data(), name.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string Fields::shown(std::string_view name) const {
  const json::value* value = object_.if_contains(json::string_view(name.data(), name.size()));
  if (value == nullptr) return "(absent)";
  std::string text = to_text(*value);
  if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
  return text;
}

void Fields::malformed(std::string_view name, std::string_view why) const {
  throw Error(ErrorCode::kFormat, fmt::format("{}: field \"{}{}\" is {}: {}; correct the file",
                                              what_, prefix_, name, shown(name), why))
      .at_path(what_)
      .at_field(prefix_ + std::string(name));
}

void Fields::unsupported(std::string_view name, std::string_view supported) const {
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: field \"{}{}\" is {}: this version cannot compute that; supported: {}",
                  what_, prefix_, name, shown(name), supported))
      .at_path(what_)
      .at_field(prefix_ + std::string(name));
}

std::optional<uint64_t> Fields::count(std::string_view name, Bounds bounds) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> integer = as_integer(*value);
  if (!integer || *integer < 0 || static_cast<uint64_t>(*integer) < bounds.least ||
      static_cast<uint64_t>(*integer) > bounds.most) {
    malformed(name, fmt::format("it must be an integer from {} to {}", bounds.least, bounds.most));
  }
  return static_cast<uint64_t>(*integer);
}

std::optional<double> Fields::number(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) malformed(name, "it must be a number");
  const double x = value->to_number<double>();
  if (!std::isfinite(x)) malformed(name, "it must be finite");
  return x;
}

std::optional<bool> Fields::flag(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) malformed(name, "it must be true or false");
  return value->get_bool();
}

std::optional<std::string> Fields::text(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) malformed(name, "it must be a string");
  return std::string(value->get_string().data(), value->get_string().size());
}

std::vector<int64_t> Fields::token_ids(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return {};
  constexpr size_t kIdsMax = 4096;
  std::vector<int64_t> ids;
  const auto add = [&](const json::value& item) {
    const std::optional<int64_t> id = as_integer(item);
    if (!id || *id < 0 || *id > INT32_MAX) {
      malformed(name, "a token id must be an integer from 0 to 2147483647");
    }
    ids.push_back(*id);
  };
  if (!value->is_array()) {
    add(*value);
    return ids;
  }
  if (value->get_array().size() > kIdsMax) malformed(name, "it lists too many ids");
  for (const json::value& item : value->get_array()) add(item);
  return ids;
}

std::optional<Fields> Fields::inside(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) malformed(name, "it must be an object");
  return Fields(value->get_object(), what_, prefix_ + std::string(name) + ".");
}

uint64_t Fields::required_count(std::string_view name, Bounds bounds) const {
  const std::optional<uint64_t> value = count(name, bounds);
  if (!value) malformed(name, "it is required");
  return *value;
}

double Fields::required_number(std::string_view name) const {
  const std::optional<double> value = number(name);
  if (!value) malformed(name, "it is required");
  return *value;
}

}  // namespace headrace::models
