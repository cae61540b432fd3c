// A model's chat template: messages to the text that the model was trained on. The template comes
// from outside and is run as Hugging Face runs it (Jinja, immutable sandbox, trim_blocks,
// lstrip_blocks, loop controls, {% generation %}), within limits on steps, depth and memory.
// Const after loading: any number of threads may render. docs/templates.md says what is supported.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/tier.h"

namespace headrace::engine {

class ChatTemplate {
 public:
  // The template in `file` where given; else of the folder: chat_template.jinja, the chat_template
  // of tokenizer_config.json (a text, or several with names), additional_chat_templates/NAME.jinja.
  // Throws kIo when there is none, kFormat when one cannot be parsed.
  static ChatTemplate load(const std::string& folder, const std::string& file = {});
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  struct Options {
    bool add_generation_prompt = true;
    std::optional<std::tm> now;  // what strftime_now sees; the local time where not given
    json::object variables;      // further names for the template
  };
  // `tools` may be null; where given, a template named tool_use is taken before the default.
  // Messages are objects; keys whose value is null are left out. The text takes no further special
  // tokens. Throws kFormat for wrong messages, kFailed with what the template raised, naming file
  // and line.
  std::string render(const json::array& messages, const json::value* tools,
                     bool add_generation_prompt = true) const;
  std::string render(const json::array& messages, const json::value* tools,
                     const Options& options) const;

  Bytes memory() const;  // what the parsed templates take at most
  // What render() allocates at most while it runs, for these messages.
  static Bytes rendering_bound(const json::value& messages);

 private:
  struct Parsed;
  struct Named {
    std::string name;
    std::unique_ptr<Parsed> parsed;
  };
  ChatTemplate();
  void add(std::string name, std::string path, std::string_view source);
  const Parsed& chosen(bool with_tools) const;

  std::string folder_;
  std::vector<Named> templates_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;  // bos_token, eos_token, …
};

// Reads an array of messages, or an object with `messages` and perhaps `tools`.
struct ChatFile {
  json::array messages;
  json::value tools;  // null: none
};
ChatFile read_chat(const std::string& path);
json::value read_tools(const std::string& path);

}  // namespace headrace::engine
