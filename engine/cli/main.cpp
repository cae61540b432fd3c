// The `headrace` program: one table of commands, one place where errors become exit codes.
#include <fmt/format.h>
#include <malloc.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>

#include "engine/cli/common.h"

namespace headrace::engine::cli {

namespace {

constexpr AddCommand kCommands[] = {add_generate, add_logits,  add_tokenize, add_detokenize,
                                    add_plan,     add_inspect, add_synth,    add_doctor,
                                    add_profile,  add_store,   add_version};

// Commands of the contract that this version does not have yet.
constexpr std::pair<const char*, const char*> kLaterCommands[] = {
    {"train", "training"},     {"export", "training"},  {"merge", "adapters"},
    {"perplexity", "scoring"}, {"bench", "benchmarks"}, {"serve", "the server"}};

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

int report(const Common& common, const Error& e) {
  if (common.json) {
    json::object error{{"type", name_of(e.code())}, {"message", lossless(e.what())}};
    if (!e.path().empty()) error["path"] = lossless(e.path());
    if (!e.field().empty()) error["field"] = lossless(e.field());
    if (e.required_bytes() != 0) error["required_bytes"] = e.required_bytes();
    fmt::print("{}\n", to_text(json::object{{"error", error}}));
    std::fflush(stdout);
  }
  log(common, Level::kError, e.what());
  return exit_code(e);
}

size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t least = std::max<size_t>(3, word.size() / 2 + 1);
  for (const std::string& k : known) {
    const size_t d = distance(word, k);
    if (d < least) least = d, best = k;
  }
  return best;
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* a = &app; a != nullptr; a = a->get_parent()) {
    for (const CLI::Option* o : a->get_options()) {
      for (const std::string& n : o->get_lnames()) names.push_back("--" + n);
      for (const std::string& n : o->get_snames()) names.push_back("-" + n);
    }
  }
  return names;
}

// What is on the line that no option took: an unknown flag, or an unknown command.
Error unknown(const CLI::App& app, const std::string& word) {
  const bool flag = !word.empty() && word[0] == '-';
  const std::string bare = word.substr(0, word.find('='));
  std::vector<std::string> known;
  if (flag) {
    known = flags_of(app);
  } else {
    for (const CLI::App* s : app.get_subcommands([](const CLI::App*) { return true; })) {
      known.push_back(s->get_name());
    }
  }
  for (const auto& [name, what] : kLaterCommands) {
    if (!flag && word == name) {
      return Error(ErrorCode::kUsage,
                   fmt::format("{}: {} is not in this version; see `headrace --help`", word, what))
          .at_field(word);
    }
  }
  const std::string near = nearest(bare, known);
  const std::string advice =
      near.empty() ? "see --help" : fmt::format("did you mean {}? See --help", near);
  return Error(ErrorCode::kUsage,
               fmt::format("{}: unknown {}; {}", bare, flag ? "flag" : "argument", advice))
      .at_field(bare);
}

// Values of --config FILE.yaml become flags, behind those of the command line and of the
// environment.
void append_config(const CLI::App& command, const std::string& path,
                   std::vector<std::string>& args) {
  YAML::Node root;
  try {
    root = YAML::LoadFile(path);
  } catch (const YAML::Exception& e) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {}; mend the file", path, e.what()))
        .at_path(path);
  }
  if (!root.IsMap()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: not a mapping; write lines like `memory: 8GiB`", path))
        .at_path(path);
  }
  for (const auto& item : root) {
    std::string key = item.first.as<std::string>();
    const std::string written = key;
    std::replace(key.begin(), key.end(), '_', '-');
    const std::vector<std::string> known = flags_of(command);
    if (std::find(known.begin(), known.end(), "--" + key) == known.end() || key == "config") {
      const std::string near = nearest("--" + key, known);
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: unknown key {}; {}", path, written,
                              near.empty() ? "see --help" : "did you mean " + near.substr(2) + "?"))
          .at_path(path)
          .at_field(written);
    }
    const CLI::Option* option = command.get_option_no_throw("--" + key);
    if (option == nullptr) option = command.get_parent()->get_option_no_throw("--" + key);
    const bool in_environment = option != nullptr && !option->get_envname().empty() &&
                                std::getenv(option->get_envname().c_str()) != nullptr;
    if (in_environment || (option != nullptr && option->count() != 0)) continue;
    const auto add = [&](const YAML::Node& value) {
      const std::string text = value.as<std::string>();
      if (option != nullptr && option->get_expected_max() == 0) {
        if (text == "true") args.push_back("--" + key);
      } else {
        args.push_back("--" + key + "=" + text);
      }
    };
    if (item.second.IsSequence()) {
      for (const YAML::Node& value : item.second) add(value);
    } else {
      add(item.second);
    }
  }
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
  }

  Command* chosen() {
    for (Command& c : commands) {
      if (c.app->parsed()) return &c;
    }
    return nullptr;
  }

  void parse(std::vector<std::string> args) {
    std::reverse(args.begin(), args.end());  // CLI11 takes them from the back
    try {
      app.parse(std::move(args));
    } catch (const CLI::ExtrasError&) {
      const Command* c = chosen();
      const CLI::App& where = c != nullptr ? *c->app : app;
      std::vector<std::string> left = app.remaining(true);
      std::stable_partition(left.begin(), left.end(),
                            [](const std::string& w) { return w[0] == '-'; });
      throw unknown(where, left.empty() ? "?" : left.front());
    }
  }
};

int run(std::vector<std::string> args) {
  auto program = std::make_unique<Program>();
  const bool json = std::find(args.begin(), args.end(), "--json") != args.end();
  Common fallback;  // when parsing fails before the flags are known
  fallback.json = json;
  try {
    try {
      program->parse(args);
      if (!program->common.config.empty()) {
        const std::string path = program->common.config;
        append_config(*program->chosen()->app, path, args);
        program = std::make_unique<Program>();
        program->parse(args);
      }
    } catch (const CLI::Success& e) {  // --help
      return program->app.exit(e);
    } catch (const CLI::ParseError& e) {
      std::string text = e.what();
      if (text.find("subcommand is required") != std::string::npos && args.size() > 0) {
        throw unknown(program->app, args.front());
      }
      throw Error(ErrorCode::kUsage, fmt::format("command line: {}; see --help", text));
    }
    handle_signals();
    program->chosen()->run();
    return 0;
  } catch (const Error& e) {
    return report(program->common.json || json
                      ? (fallback.log_format = program->common.log_format, fallback)
                      : program->common,
                  e);
  } catch (const Silent& s) {
    return s.exit_code;
  } catch (const std::bad_alloc&) {
    return report(fallback, Error(ErrorCode::kFailed,
                                  "memory: the system has none left; give a smaller --memory"));
  } catch (const std::exception& e) {
    return report(fallback, Error(ErrorCode::kFailed, fmt::format("unexpected: {}", e.what())));
  }
}

}  // namespace

}  // namespace headrace::engine::cli

int main(int argc, char** argv) {
  // One arena: memory freed by one thread serves the others, so that the base stays what it is
  // declared.
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_THRESHOLD, 256 * 1024);
  return headrace::engine::cli::run({argv + 1, argv + argc});
}
