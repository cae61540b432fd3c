// Typed reads of the small parts of tokenizer.json (normalizer, pre_tokenizer, post_processor,
// decoder). `part` names the place in error messages.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"

namespace headrace::engine {

const json::object& object_at(const json::value& value, std::string_view part);
const json::array& array_at(const json::object& object, std::string_view key,
                            std::string_view part);
std::string_view string_at(const json::object& object, std::string_view key, std::string_view part);
bool bool_at(const json::object& object, std::string_view key, std::string_view part,
             std::optional<bool> absent = std::nullopt);
uint64_t number_at(const json::object& object, std::string_view key, std::string_view part);
char32_t char_at(const json::object& object, std::string_view key, std::string_view part);

[[noreturn]] void fail_field(std::string_view part, std::string_view why);    // kFormat
[[noreturn]] void refuse_part(std::string_view part, std::string_view what);  // kUnsupported

}  // namespace headrace::engine
