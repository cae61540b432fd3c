// `headrace tokenize` and `headrace detokenize`.
#include <fmt/format.h>

#include "engine/cli/common.h"

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

}  // namespace

Command add_tokenize(CLI::App& app, Common& common) {
  struct Flags {
    std::string model, file;
    std::optional<std::string> text;
    bool no_special = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("tokenize", "text to token ids");
  c->add_option("MODEL", flags->model, "a folder with tokenizer.json")->required();
  c->add_option("-p,--prompt", flags->text, "the text");
  c->add_option("-f,--file", flags->file, "read the text from a file");
  c->add_flag("--no-special", flags->no_special, "add no special tokens");
  refuse_flags(*c, {"--messages", "--tools", "--no-generation-prompt"}, "chat templates are");
  return {c, [flags, &common] {
            const auto tokenizer = required_tokenizer(flags->model);
            const std::string text = flags->text            ? *flags->text
                                     : !flags->file.empty() ? read_file(flags->file, 256 * kMiB)
                                                            : read_stdin();
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
