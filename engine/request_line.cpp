#include "engine/request_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"
#include "engine/line_file.h"
#include "engine/sampling_json.h"

namespace headrace::engine {

namespace {

constexpr std::array<std::string_view, 3> kPrompts = {"prompt", "ids", "messages"};
constexpr std::array<std::string_view, 4> kOthers = {"id", "prompt", "ids", "messages"};

Error wrong(std::string_view field, const std::string& why) {
  return Error(ErrorCode::kUsage, fmt::format("{}: {}", field, why)).at_field(std::string(field));
}

}  // namespace

RequestReader::RequestReader(const ModelFolder& folder, const Tokenizer* tokenizer,
                             SamplingParams defaults, std::vector<int32_t> stop_ids,
                             std::string chat_template, std::string unsupported)
    : config_(folder.config),
      tokenizer_(tokenizer),
      defaults_(std::move(defaults)),
      stop_ids_(std::move(stop_ids)),
      folder_(folder.path),
      chat_template_(std::move(chat_template)),
      unsupported_(std::move(unsupported)) {
  const std::time_t now = std::time(nullptr);
  ::localtime_r(&now, &now_);
}

json::object RequestReader::parse(std::string_view line) {
  json::value value = parse_json(line, "line", {.bytes_max = LineFile::kLineMax});
  if (value.is_object()) return std::move(value.as_object());
  throw Error(ErrorCode::kFormat,
              "line: not an object; give one like {\"id\": 1, \"prompt\": \"…\"}");
}

std::optional<std::string> RequestReader::id_of(const json::object& line) {
  constexpr size_t kIdMax = kMiB;  // it must fit into a line of the results
  const json::value* id = line.if_contains("id");
  const bool usable = id != nullptr && (id->is_int64() || id->is_uint64() ||
                                        (id->is_string() && id->get_string().size() <= kIdMax));
  return usable ? std::optional(to_text(*id)) : std::nullopt;
}

Request RequestReader::read(const json::object& line) const {
  if (!id_of(line))
    throw wrong("id", "a text of at most 1 MiB or a whole number is wanted; add it");
  Request request;
  request.sampling = parse_sampling(line, defaults_, kOthers, config_.vocab_size);
  if (!request.sampling.stop.empty()) need_tokenizer("stop", "stop_token_ids");
  request.stop_ids = stop_ids_;
  request.prompt = prompt_of(line);
  Generator::check(config_, request);
  return request;
}

void RequestReader::need_tokenizer(std::string_view field, std::string_view instead) const {
  if (tokenizer_ != nullptr) return;
  if (!unsupported_.empty()) throw wrong(field, unsupported_);
  throw wrong(field, fmt::format("the model has no tokenizer.json; give {}", instead));
}

std::vector<int32_t> RequestReader::prompt_of(const json::object& line) const {
  const json::value* given = nullptr;
  std::string_view field;
  for (std::string_view name : kPrompts) {
    const json::value* value = line.if_contains(name);
    if (value == nullptr || value->is_null()) continue;  // null is not given, as in every field
    if (given != nullptr) throw wrong(name, fmt::format("{} is there too; give one", field));
    given = value;
    field = name;
  }
  if (given == nullptr) throw wrong("prompt", "none; give one of prompt, ids, messages");
  if (field != "ids") need_tokenizer(field, "ids");
  if (field == "messages") return chat_of(*given);
  if (field == "prompt") {
    if (!given->is_string()) throw wrong(field, "not a text; give one");
    return encode(field, given->as_string(), {});
  }
  std::vector<int32_t> ids;
  if (!given->is_array()) throw wrong(field, "not a list; give one like [1, 2, 3]");
  ids.reserve(given->as_array().size());
  for (const json::value& item : given->as_array()) {
    const int64_t id = item.is_int64() ? item.as_int64() : -1;
    if (id < 0 || static_cast<uint64_t>(id) >= config_.vocab_size) {
      throw wrong(field, fmt::format("{} is no token of the model; give whole numbers from 0 to {}",
                                     shortened(to_text(item)), config_.vocab_size - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<int32_t> RequestReader::chat_of(const json::value& messages) const {
  if (!messages.is_array())
    throw wrong("messages", "not a list; give [{\"role\", \"content\"}, …]");
  std::string text;
  try {
    if (!chat_) chat_ = std::make_unique<ChatTemplate>(ChatTemplate::load(folder_, chat_template_));
    messages_max_ = std::max(messages_max_, ChatTemplate::rendering_bound(messages));
    text = chat_->render(messages.get_array(), nullptr, {.now = now_});
  } catch (const Error& error) {  // whatever it is, it is this line's
    throw wrong("messages", error.what());
  }
  return encode("messages", text, {.add_special = false});
}

std::vector<int32_t> RequestReader::encode(std::string_view field, std::string_view text,
                                           const EncodeOptions& options) const {
  try {
    return tokenizer_->encode(text, options);
  } catch (const Error& error) {  // a text that is too much for the tokenizer is this line's, too
    throw wrong(field, error.what());
  }
}

Bytes RequestReader::chat_memory() const { return chat_ ? chat_->memory() + messages_max_ : 0; }

}  // namespace headrace::engine
