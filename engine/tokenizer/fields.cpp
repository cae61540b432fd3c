#include "engine/tokenizer/fields.h"

#include <fmt/format.h>

#include "core/error.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

const json::value& value_at(const json::object& object, std::string_view key,
                            std::string_view part) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) fail_field(part, fmt::format("the field {} is missing", key));
  return *value;
}

}  // namespace

void fail_field(std::string_view part, std::string_view why) {
  throw Error(ErrorCode::kFormat, fmt::format("{}: {}", part, why)).at_field(std::string(part));
}

void refuse_part(std::string_view part, std::string_view what) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: {} is not supported; convert the tokenizer to byte-level or "
                          "byte-fallback BPE",
                          part, what))
      .at_field(std::string(part));
}

const json::object& object_at(const json::value& value, std::string_view part) {
  if (!value.is_object()) fail_field(part, "it must be an object");
  return value.get_object();
}

const json::array& array_at(const json::object& object, std::string_view key,
                            std::string_view part) {
  const json::value& value = value_at(object, key, part);
  if (!value.is_array()) fail_field(part, fmt::format("the field {} must be a list", key));
  return value.get_array();
}

std::string_view string_at(const json::object& object, std::string_view key,
                           std::string_view part) {
  const json::value& value = value_at(object, key, part);
  if (!value.is_string()) fail_field(part, fmt::format("the field {} must be a string", key));
  const json::string& text = value.get_string();
  return {text.data(), text.size()};
}

bool bool_at(const json::object& object, std::string_view key, std::string_view part,
             std::optional<bool> absent) {
  if (absent && object.if_contains(key) == nullptr) return *absent;
  const json::value& value = value_at(object, key, part);
  if (!value.is_bool()) fail_field(part, fmt::format("the field {} must be true or false", key));
  return value.get_bool();
}

uint64_t number_at(const json::object& object, std::string_view key, std::string_view part) {
  const json::value& value = value_at(object, key, part);
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0) return static_cast<uint64_t>(value.get_int64());
  fail_field(part, fmt::format("the field {} must be a whole number from 0", key));
}

char32_t char_at(const json::object& object, std::string_view key, std::string_view part) {
  const std::string_view text = string_at(object, key, part);
  size_t at = 0;
  const char32_t c = text.empty() ? 0 : next_char(text, at);
  if (text.empty() || at != text.size()) {
    fail_field(part, fmt::format("the field {} must be one character", key));
  }
  return c;
}

}  // namespace headrace::engine
