#include "engine/tokenizer/post_processor.h"

#include <fmt/format.h>

#include <string>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/vocabulary.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kPart = "post_processor";

void append_ids(const json::object& special_tokens, std::string_view name,
                std::vector<int32_t>& out) {
  const json::value* entry = special_tokens.if_contains(name);
  if (entry == nullptr) {
    fail_field(kPart, fmt::format("special_tokens has no {:?}", name));
  }
  const json::object& token = object_at(*entry, kPart);
  for (const json::value& id : array_at(token, "ids", kPart)) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= kIdEnd) {
      fail_field(kPart, fmt::format("an id of {:?} must be a whole number below {}", name, kIdEnd));
    }
    out.push_back(static_cast<int32_t>(id.get_int64()));
  }
}

// The template for one text: special tokens around the place of the text.
PostProcessor read_template(const json::object& object) {
  PostProcessor result;
  const json::value* tokens = object.if_contains("special_tokens");
  if (tokens == nullptr) fail_field(kPart, "the field special_tokens is missing");
  const json::object& special_tokens = object_at(*tokens, kPart);
  bool text_seen = false;
  for (const json::value& value : array_at(object, "single", kPart)) {
    const json::object& piece = object_at(value, kPart);
    if (const json::value* sequence = piece.if_contains("Sequence")) {
      if (string_at(object_at(*sequence, kPart), "id", kPart) != "A" || text_seen) {
        refuse_part(kPart, "a template for one text that has not exactly one place for it");
      }
      text_seen = true;
    } else if (const json::value* special = piece.if_contains("SpecialToken")) {
      append_ids(special_tokens, string_at(object_at(*special, kPart), "id", kPart),
                 text_seen ? result.behind : result.before);
    } else {
      fail_field(kPart, "a piece of a template must be Sequence or SpecialToken");
    }
  }
  if (!text_seen) refuse_part(kPart, "a template without a place for the text");
  return result;
}

}  // namespace

PostProcessor read_post_processor(const json::value& config) {
  if (config.is_null()) return {};
  const json::object& object = object_at(config, kPart);
  const std::string_view type = string_at(object, "type", kPart);
  if (type == "ByteLevel") return {};  // trims offsets, which are not kept
  if (type == "TemplateProcessing") return read_template(object);
  if (type != "Sequence") refuse_part(kPart, fmt::format("the type {}", type));
  PostProcessor result;
  for (const json::value& part : array_at(object, "processors", kPart)) {
    const PostProcessor outer = read_post_processor(part);
    result.before.insert(result.before.begin(), outer.before.begin(), outer.before.end());
    result.behind.insert(result.behind.end(), outer.behind.begin(), outer.behind.end());
  }
  return result;
}

}  // namespace headrace::engine
