// `headrace tokenize` and `headrace detokenize`.
#include <fmt/format.h>
#include <unistd.h>

#include "engine/cli/arguments.h"
#include "engine/cli/common.h"
#include "engine/template/chat.h"

namespace headrace::engine::cli {

namespace {

std::unique_ptr<Tokenizer> required_tokenizer(const std::string& folder) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder);
  if (tokenizer == nullptr) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: no tokenizer.json there; give a folder that has one", folder))
        .at_path(folder);
  }
  return tokenizer;
}

constexpr Bytes kTextMost = 256 * kMiB;

struct TokenizeFlags {
  std::string model, file, messages, tools, chat_template;
  std::optional<std::string> text;
  bool no_special = false, no_generation_prompt = false;
};

// The rendered chat and its ids. The template has written every special token, so that encoding
// recognises them and adds none.
void tokenize_chat(const TokenizeFlags& flags) {
  std::string text;
  {
    const auto chat_template = ChatTemplate::load(flags.model, flags.chat_template);
    ChatFile chat = read_chat(flags.messages);
    if (!flags.tools.empty()) chat.tools = read_tools(flags.tools);
    text = chat_template.render(chat.messages, &chat.tools, !flags.no_generation_prompt);
  }
  const auto tokenizer = required_tokenizer(flags.model);
  const auto ids = tokenizer->encode(text, {.add_special = false});
  print_json({{"text", lossless(text)}, {"ids", ids_json(ids)}});
}

}  // namespace

Command add_tokenize(CLI::App& app, Common& common) {
  using Flags = TokenizeFlags;
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("tokenize", "text to token ids");
  c->add_option("MODEL", flags->model, "a folder with tokenizer.json")->required();
  CLI::Option* prompt = c->add_option("-p,--prompt", flags->text, "the text");
  CLI::Option* file =
      c->add_option("-f,--file", flags->file, "read the text from a file")->excludes(prompt);
  c->add_flag("--no-special", flags->no_special, "add no special tokens");
  CLI::Option* messages = c->add_option("--messages", flags->messages,
                                        "a JSON file of messages: render the chat template")
                              ->excludes(prompt)
                              ->excludes(file);
  c->add_option("--tools", flags->tools, "a JSON file of tools for the template")->needs(messages);
  c->add_flag("--no-generation-prompt", flags->no_generation_prompt,
              "do not open the assistant's turn")
      ->needs(messages);
  const CLI::Option* chat_template = c->add_option("--chat-template", flags->chat_template,
                                                   "a template file instead of the model's");
  return {c, [=, &common] {
            check_needed(*chat_template, {messages});
            if (!flags->messages.empty()) return tokenize_chat(*flags);
            const auto tokenizer = required_tokenizer(flags->model);
            const std::string text =
                flags->text ? *flags->text
                : !flags->file.empty()
                    ? read_file(flags->file, kTextMost)
                    : read_stream(STDIN_FILENO, "stdin", kTextMost, kTextMost).text;
            const auto ids = tokenizer->encode(text, {.add_special = !flags->no_special});
            if (!common.json) return print_text(fmt::format("{}\n", fmt::join(ids, ",")));
            json::array tokens;
            for (int32_t id : ids) tokens.emplace_back(lossless(tokenizer->token(id)));
            print_json({{"ids", ids_json(ids)}, {"tokens", tokens}});
          }};
}

Command add_detokenize(CLI::App& app, Common& common) {
  struct Flags {
    std::string model, ids;
    bool skip_special = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("detokenize", "token ids to text");
  c->add_option("MODEL", flags->model, "a folder with tokenizer.json")->required();
  c->add_option("--ids", flags->ids, "token ids: 1,2,3")->required();
  c->add_flag("--skip-special", flags->skip_special, "leave special tokens out");
  return {c, [flags, &common] {
            const auto tokenizer = required_tokenizer(flags->model);
            const std::vector<int32_t> ids = parse_ids(flags->ids);
            for (const int32_t id : ids) {
              if (static_cast<size_t>(id) < tokenizer->vocabulary_size()) continue;
              throw Error(ErrorCode::kUsage,
                          fmt::format("--ids: token {} is outside the vocabulary; give 0 to {}", id,
                                      tokenizer->vocabulary_size() - 1))
                  .at_field("--ids");
            }
            const std::string text = tokenizer->decode(ids, flags->skip_special);
            if (common.json) return print_json({{"text", lossless(text)}});
            print_text(text + "\n");
          }};
}

}  // namespace headrace::engine::cli
