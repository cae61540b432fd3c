#include "engine/template/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "engine/template/interpreter.h"
#include "engine/template/parser.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

namespace fs = std::filesystem;

constexpr Bytes kTemplateBytesMax = 256 * kKiB;
constexpr size_t kTemplatesMax = 32;
constexpr uint64_t kStepsMax = 8'000'000;  // a second or two
// What a rendering may hold: a fixed part, and in proportion to what it was given.
constexpr Bytes kMemory = 16 * kMiB;
constexpr Bytes kMemoryPerByte = 8;
constexpr JsonLimits kChatLimits{.bytes_max = 64 * kMiB, .depth_max = 64};

constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

// A token as text, or as the object that older files have.
std::optional<std::string> token_text(const json::object& config, const char* name) {
  const json::value* value = config.if_contains(name);
  if (value != nullptr && value->is_object()) value = value->get_object().if_contains("content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

std::optional<json::object> read_object(const std::string& path) {
  if (!fs::exists(path)) return std::nullopt;
  json::value value = read_json(path, {.bytes_max = 64 * kMiB});
  if (!value.is_object()) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: not a JSON object; mend it", path))
        .at_path(path);
  }
  return std::move(value.get_object());
}

Bytes size_of(const json::value& value) {
  Bytes size = 64;
  if (value.is_string()) size += value.get_string().size();
  if (value.is_array()) {
    for (const json::value& item : value.get_array()) size += size_of(item);
  }
  if (value.is_object()) {
    for (const auto& [key, item] : value.get_object()) size += key.size() + size_of(item);
  }
  return size;
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  ::localtime_r(&now, &out);
  return out;
}

// Without what is null, and with the model's own thoughts under both names that templates read.
json::object plain_message(const json::value& message, size_t at) {
  if (!message.is_object()) {
    throw Error(ErrorCode::kFormat,
                fmt::format("messages[{}]: not an object; give {{\"role\", \"content\"}}", at))
        .at_field("messages");
  }
  json::object out;
  const json::value* thoughts = nullptr;
  const json::object& given = message.get_object();
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const json::value* value = given.if_contains(name);
    if (thoughts == nullptr && value != nullptr && !value->is_null()) thoughts = value;
  }
  const bool named = given.contains("thinking") && !given.at("thinking").is_null();
  if (thoughts != nullptr && !named) out["thinking"] = *thoughts;
  for (const auto& [key, value] : given) {
    if (!value.is_null()) out[key] = value;
  }
  if (thoughts != nullptr) out["reasoning_content"] = *thoughts;
  return out;
}

}  // namespace

struct ChatTemplate::Parsed {
  std::string path;
  jinja::Body body;
  Bytes bytes;
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

void ChatTemplate::add(std::string name, std::string path, std::string_view source) {
  if (templates_.size() == kTemplatesMax) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: more than {} chat templates", path, kTemplatesMax))
        .at_path(path);
  }
  if (source.size() > kTemplateBytesMax || !is_utf8(source)) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: chat template: it must be UTF-8 of at most {} bytes", path,
                            kTemplateBytesMax))
        .at_path(path);
  }
  auto parsed = std::make_unique<Parsed>();
  parsed->path = path;
  try {
    size_t tokens = 0;
    parsed->body = jinja::parse_template(source, &tokens);
    // A token makes an expression or a statement at most, or two for what lies between tokens.
    constexpr Bytes kPerToken = 2 * sizeof(jinja::Statement);
    parsed->bytes = 4 * kKiB + 2 * source.size() + kPerToken * tokens;
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{}: chat template: {}; mend it or give another with --chat-template",
                            path, error.what()))
        .at_path(path);
  }
  for (Named& each : templates_) {
    if (each.name == name) {
      each.parsed = std::move(parsed);
      return;
    }
  }
  templates_.push_back({std::move(name), std::move(parsed)});
}

ChatTemplate ChatTemplate::load(const std::string& folder, const std::string& file) {
  ChatTemplate made;
  made.folder_ = folder;
  const std::string config_path = folder + "/tokenizer_config.json";
  const auto config = read_object(config_path).value_or(json::object());
  const auto map = read_object(folder + "/special_tokens_map.json").value_or(json::object());
  for (const char* name : kTokenNames) {
    auto text = token_text(config, name);
    if (!text) text = token_text(map, name);
    if (text) made.special_tokens_.emplace_back(name, *text);
  }
  if (!file.empty()) {
    made.add("default", file, read_file(file, kTemplateBytesMax));
    return made;
  }
  if (const json::value* value = config.if_contains("chat_template")) {
    if (value->is_string()) {
      made.add("default", config_path, value->get_string());
    } else if (value->is_array()) {
      for (const json::value& each : value->get_array()) {
        const json::object* named = each.if_object();
        const json::value* name = named != nullptr ? named->if_contains("name") : nullptr;
        const json::value* text = named != nullptr ? named->if_contains("template") : nullptr;
        if (name == nullptr || text == nullptr || !name->is_string() || !text->is_string()) {
          throw Error(ErrorCode::kFormat,
                      fmt::format("{}: chat_template: an entry without name and template; mend it",
                                  config_path))
              .at_path(config_path)
              .at_field("chat_template");
        }
        made.add(std::string(name->get_string()), config_path, text->get_string());
      }
    }
  }
  // Files of their own stand before what the configuration says.
  if (const std::string path = folder + "/chat_template.jinja"; fs::exists(path)) {
    made.add("default", path, read_file(path, kTemplateBytesMax));
  }
  std::error_code none;
  std::vector<fs::path> more;
  for (fs::directory_iterator at(folder + "/additional_chat_templates", none), end;
       !none && at != end; at.increment(none)) {
    if (at->path().extension() == ".jinja") more.push_back(at->path());
  }
  std::sort(more.begin(), more.end());
  for (const fs::path& path : more) {
    made.add(path.stem().string(), path.string(), read_file(path.string(), kTemplateBytesMax));
  }
  if (made.templates_.empty()) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: no chat template: neither chat_template.jinja nor a chat_template "
                            "in tokenizer_config.json; give one with --chat-template",
                            folder))
        .at_path(folder);
  }
  return made;
}

Bytes ChatTemplate::memory() const {
  Bytes bytes = 0;
  for (const Named& each : templates_) bytes += each.parsed->bytes;
  return bytes;
}

Bytes ChatTemplate::rendering_bound(const json::value& messages) {
  // What the meter does not count (lists under construction, names of blocks, the allocator's own)
  // is less than what it counts.
  return 2 * (kMemory + kMemoryPerByte * size_of(messages));
}

const ChatTemplate::Parsed& ChatTemplate::chosen(bool with_tools) const {
  for (const char* name : {"tool_use", "default"}) {
    if (!with_tools && std::string_view(name) == "tool_use") continue;
    for (const Named& each : templates_) {
      if (each.name == name) return *each.parsed;
    }
  }
  std::string names;
  for (const Named& each : templates_) names += (names.empty() ? "" : ", ") + each.name;
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: chat templates {}: none is named default; give one with "
                          "--chat-template",
                          folder_, names))
      .at_path(folder_);
}

std::string ChatTemplate::render(const json::array& messages, const json::value* tools,
                                 bool add_generation_prompt) const {
  return render(messages, tools, Options{.add_generation_prompt = add_generation_prompt});
}

std::string ChatTemplate::render(const json::array& messages, const json::value* tools,
                                 const Options& options) const {
  if (messages.empty()) {
    throw Error(ErrorCode::kFormat, "messages: there is none; give one at least")
        .at_field("messages");
  }
  const bool with_tools = tools != nullptr && !tools->is_null();
  if (with_tools && !tools->is_array()) {
    throw Error(ErrorCode::kFormat, "tools: not an array; give a list of functions")
        .at_field("tools");
  }
  const Parsed& parsed = chosen(with_tools);
  Bytes given = with_tools ? size_of(*tools) : 0;
  for (const json::value& message : messages) given += size_of(message);
  jinja::Meter meter(kMemory + kMemoryPerByte * given, kStepsMax + given);
  jinja::Runtime runtime(meter, options.now ? *options.now : local_time());
  try {
    std::vector<std::pair<std::string, jinja::Value>> names;
    for (const auto& [name, text] : special_tokens_) names.emplace_back(name, runtime.text(text));
    std::vector<jinja::Value> chat;
    for (size_t i = 0; i < messages.size(); ++i) {
      chat.push_back(jinja::from_json(&meter, plain_message(messages[i], i)));
    }
    names.emplace_back("messages", jinja::make_list(&meter, std::move(chat)));
    names.emplace_back("tools", with_tools ? jinja::from_json(&meter, *tools) : jinja::Value());
    names.emplace_back("documents", jinja::Value());
    names.emplace_back("add_generation_prompt", jinja::Value(options.add_generation_prompt));
    for (const auto& [name, value] : options.variables) {
      names.emplace_back(std::string(name), jinja::from_json(&meter, value));
    }
    return runtime.render(parsed.body, std::move(names));
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kFormat) throw;
    throw Error(error.code(),
                fmt::format("{}: chat template, line {}: {}; change the messages, or give "
                            "another template with --chat-template",
                            parsed.path, runtime.line(), error.what()))
        .at_path(parsed.path);
  }
}

json::value read_tools(const std::string& path) {
  json::value value = read_json(path, kChatLimits);
  if (!value.is_array()) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: not an array; give a list of functions", path))
        .at_path(path)
        .at_field("--tools");
  }
  return value;
}

ChatFile read_chat(const std::string& path) {
  json::value value = read_json(path, kChatLimits);
  ChatFile chat;
  if (value.is_object() && value.get_object().contains("messages")) {
    json::object& object = value.get_object();
    if (json::value* tools = object.if_contains("tools")) chat.tools = std::move(*tools);
    json::value messages = std::move(object.at("messages"));
    value = std::move(messages);
  }
  if (!value.is_array()) {
    throw Error(
        ErrorCode::kFormat,
        fmt::format("{}: not an array of messages; give [{{\"role\", \"content\"}}, …]", path))
        .at_path(path)
        .at_field("--messages");
  }
  chat.messages = std::move(value.get_array());
  return chat;
}

}  // namespace headrace::engine
