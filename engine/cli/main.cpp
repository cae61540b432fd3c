// The `headrace` program: one table of commands, one place where errors become exit codes.
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>

#include "engine/cli/arguments.h"
#include "engine/cli/common.h"

namespace headrace::engine::cli {

namespace {

constexpr AddCommand kCommands[] = {
    add_generate, add_logits, add_perplexity, add_tokenize, add_detokenize, add_plan,   add_inspect,
    add_synth,    add_doctor, add_profile,    add_store,    add_bench,      add_version};

// Commands of the contract that this version does not have yet.
const std::vector<LaterCommand> kLaterCommands = {{"train", "training is"},
                                                  {"export", "training is"},
                                                  {"merge", "adapters are"},
                                                  {"serve", "the server is"}};

int exit_code(const Error& e) {
  switch (e.code()) {
    case ErrorCode::kUsage:
      return 2;
    case ErrorCode::kInfeasible:
      return 3;
    case ErrorCode::kInterrupted:
      return 128 + (caught_signal() != 0 ? caught_signal() : 2);
    default:
      return 1;
  }
}

const char* advice(ErrorCode code) {
  switch (code) {
    case ErrorCode::kFormat:
    case ErrorCode::kCorrupt:
      return "take the file from its source anew";
    case ErrorCode::kIo:
      return "check the path and the disk";
    default:
      return "see --help";
  }
}

// WHAT: WHY; DO THIS, with the file, also where an outside library or a part of a file had only the
// WHY. It carries required_bytes in full: a script that has only the line needs no JSON.
std::string message_of(const Error& e) {
  std::string text = one_line(e.what());
  const std::string path = one_line(e.path()), bytes = std::to_string(e.required_bytes());
  if (text.find(path) == std::string::npos) text = fmt::format("{}: {}", path, text);
  if (text.find("; ") == std::string::npos) text += fmt::format("; {}", advice(e.code()));
  if (e.required_bytes() == 0 || text.find(bytes) != std::string::npos) return text;
  return fmt::format("{} (required_bytes {})", text, bytes);
}

int report(const Common& common, const Error& e) {
  const std::string message = message_of(e);
  log(common, Level::kError, message);
  if (common.json) {
    json::object error{{"type", name_of(e.code())}, {"message", lossless(message)}};
    if (!e.path().empty()) error["path"] = lossless(e.path());
    if (!e.field().empty()) error["field"] = lossless(e.field());
    if (e.required_bytes() != 0) error["required_bytes"] = e.required_bytes();
    const std::string line = to_text(json::object{{"error", error}}) + "\n";
    std::fwrite(line.data(), 1, line.size(), stdout);  // the exit code says the same
    std::fflush(stdout);
  }
  return exit_code(e);
}

struct Program {
  CLI::App app{"Headrace runs transformers that are larger than the memory they run in.",
               "headrace"};
  Common common;
  std::vector<Command> commands;

  Program() {
    app.require_subcommand(1);
    app.fallthrough();
    app.option_defaults()->always_capture_default();
    app.add_flag("--json", common.json, "one JSON object on stdout, nothing else");
    app.add_flag("--quiet", common.quiet, "no progress and no notes");
    app.add_option("--log-level", common.log_level, "debug, info, warning, error")
        ->envname("HEADRACE_LOG_LEVEL")
        ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
    app.add_option("--log-format", common.log_format, "text or json")
        ->envname("HEADRACE_LOG_FORMAT")
        ->check(CLI::IsMember({"text", "json"}));
    app.add_option("--color", common.color, "auto, always, never")
        ->check(CLI::IsMember({"auto", "always", "never"}));
    app.add_option("--config", common.config, "flags as a YAML file: `memory: 8GiB`");
    for (AddCommand add : kCommands) commands.push_back(add(app, common));
    for (Command& c : commands) c.app->fallthrough();
    app.set_version_flag("--version", "headrace " HEADRACE_VERSION, "print the version");
    name_variables(app);
  }

  Command* chosen() {
    for (Command& c : commands) {
      if (c.app->parsed()) return &c;
    }
    return nullptr;
  }
  CLI::App& command() { return chosen() != nullptr ? *chosen()->app : app; }

  void parse(const std::vector<std::string>& args) {
    try {
      app.parse(std::vector<std::string>(args.rbegin(), args.rend()));  // it takes from the back
    } catch (const CLI::ExtrasError&) {
      std::vector<std::string> left = app.remaining(true);
      std::stable_partition(left.begin(), left.end(),
                            [](const std::string& w) { return w.starts_with('-'); });
      throw unknown_word(command(), left.empty() ? "?" : left.front(), kLaterCommands);
    } catch (const CLI::RequiredError& e) {
      if (std::string_view(e.what()).find("subcommand") == std::string_view::npos)
        throw usage_error(command(), e, args);
      throw no_command(args);
    } catch (const CLI::Success&) {
      throw;  // --help, --version
    } catch (const CLI::ParseError& e) {
      throw usage_error(command(), e, args);
    }
  }

  // No command, or none of a command's own, such as `store list`: a wrong word, or nothing at all.
  Error no_command(const std::vector<std::string>& args) {
    for (const std::string& word : args) {
      const bool flag = word.starts_with('-');
      const bool known = flag ? app.get_option_no_throw(word.substr(0, word.find('='))) != nullptr
                              : chosen() != nullptr && word == command().get_name();
      if (!known) return unknown_word(command(), word, kLaterCommands);
    }
    std::string names;
    for (const CLI::App* s : command().get_subcommands([](const CLI::App*) { return true; }))
      names += (names.empty() ? "" : ", ") + s->get_name();
    return Error(ErrorCode::kUsage,
                 fmt::format("{}: no command; give one of {}", command().get_name(), names));
  }
};

bool wants_json(const std::vector<std::string>& args) {
  const char* variable = std::getenv("HEADRACE_JSON");
  const std::string value = variable != nullptr ? variable : "";
  const auto end = std::find(args.begin(), args.end(), "--");
  return value == "1" || value == "true" || std::find(args.begin(), end, "--json") != end;
}

int run(std::vector<std::string> args) {
  auto program = std::make_unique<Program>();
  program->common.json = wants_json(args);  // holds for what parsing refuses too
  try {
    try {
      program->parse(args);
      if (const std::string path = program->common.config; !path.empty()) {
        append_config(program->command(), path, args);
        program = std::make_unique<Program>();
        program->common.json = wants_json(args);
        program->parse(args);
      }
    } catch (const CLI::Success& e) {
      const int code = program->app.exit(e);
      print_text("");  // throws where the help could not be printed
      return code;
    }
    handle_signals();
    program->chosen()->run();
    return 0;
  } catch (const Error& e) {
    return report(program->common, e);
  } catch (const Silent& s) {
    return s.exit_code;
  } catch (const std::bad_alloc&) {
    return report(
        program->common,
        Error(ErrorCode::kFailed, "memory: the system has none left; give a smaller --memory"));
  } catch (const std::filesystem::filesystem_error& e) {
    const std::string path = e.path1().string();
    return report(program->common,
                  Error(ErrorCode::kIo, fmt::format("{}: {}; check the path and its permissions",
                                                    path, e.code().message()))
                      .at_path(path));
  } catch (const std::exception& e) {
    return report(
        program->common,
        Error(ErrorCode::kFailed, fmt::format("unexpected: {}; please report it", e.what())));
  }
}

}  // namespace

}  // namespace headrace::engine::cli

int main(int argc, char** argv) {
  // One arena: memory freed by one thread serves the others, so that the base stays what it is
  // declared.
  ::mallopt(M_ARENA_MAX, 1);
  headrace::engine::cli::open_standard_streams();
  ::mallopt(M_MMAP_THRESHOLD, 256 * 1024);
  return headrace::engine::cli::run({argv + 1, argv + argc});
}
