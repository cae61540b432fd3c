#include "engine/cli/arguments.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "core/json.h"
#include "engine/words.h"

namespace headrace::engine::cli {

namespace {

constexpr Bytes kConfigBytesMax = kMiB;

// Flags that name one call's inputs and outputs: a variable would leak into every other call.
constexpr const char* kNoVariable[] = {
    "help",     "version", "prompt", "file",   "ids",
    "messages", "tools",   "input",  "output", "no-generation-prompt"};

bool is_later(const CLI::Option& option) { return option.get_group().empty(); }

// Flags of the command and of the program; with those of later versions only when asked.
std::vector<std::string> flags_of(const CLI::App& app, bool with_later) {
  std::vector<std::string> names;
  for (const CLI::App* a = &app; a != nullptr; a = a->get_parent()) {
    for (const CLI::Option* o : a->get_options()) {
      if (!with_later && is_later(*o)) continue;
      for (const std::string& n : o->get_lnames()) names.push_back("--" + n);
      for (const std::string& n : o->get_snames()) names.push_back("-" + n);
    }
  }
  return names;
}

const CLI::Option* find_option(const CLI::App& command, const std::string& flag) {
  for (const CLI::App* a = &command; a != nullptr; a = a->get_parent()) {
    if (const CLI::Option* o = a->get_option_no_throw(flag)) return o;
  }
  return nullptr;
}

std::string article(const CLI::Option* option) {
  const std::string type = option != nullptr ? option->get_type_name() : "";
  if (type.starts_with("UINT")) return "a whole number of 0 or more";
  if (type.starts_with("INT")) return "a whole number";
  if (type.starts_with("FLOAT")) return "a number";
  return "a value that --help shows";
}

YAML::Node load_config(const std::string& path) {
  const std::string text = read_file(path, kConfigBytesMax);
  try {
    YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return YAML::Node(YAML::NodeType::Map);  // an empty file says nothing
    if (root.IsMap()) return root;
  } catch (const YAML::Exception& e) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: not YAML: {}; mend the file", path, e.what()))
        .at_path(path);
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: not a mapping; write lines like `memory: 8GiB`", path))
      .at_path(path);
}

std::string scalar(const YAML::Node& value, const std::string& path, const std::string& key) {
  if (value.IsScalar()) return value.Scalar();
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {}: not a plain value; write a text or a number", path, key))
      .at_path(path)
      .at_field(key);
}

// The values of one key. A list repeats its flag; a list of token ids is one prompt.
std::vector<std::string> values_of(const YAML::Node& node, const std::string& path,
                                   const std::string& key) {
  if (!node.IsSequence()) return {scalar(node, path, key)};
  std::vector<std::string> values;
  for (const YAML::Node& item : node) {
    const std::string text = scalar(item, path, key);
    if (key == "ids" && !values.empty()) {
      values.front() += "," + text;
    } else {
      values.push_back(text);
    }
  }
  return values;
}

bool truth(const std::string& text, const std::string& path, const std::string& key) {
  bool value = false;
  if (YAML::convert<bool>::decode(YAML::Node(text), value)) return value;
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: {}: {} is neither true nor false; write one of them", path, key, text))
      .at_path(path)
      .at_field(key);
}

}  // namespace

void name_variables(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || !option->get_envname().empty() || is_later(*option))
      continue;
    std::string name = option->get_lnames().front();
    if (std::find(std::begin(kNoVariable), std::end(kNoVariable), name) != std::end(kNoVariable))
      continue;
    for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    option->envname("HEADRACE_" + name);
  }
  for (CLI::App* sub : command.get_subcommands([](CLI::App*) { return true; }))
    name_variables(*sub);
}

bool in_environment(const CLI::Option& option) {
  const char* value =
      option.get_envname().empty() ? nullptr : std::getenv(option.get_envname().c_str());
  return value != nullptr && value[0] != '\0';
}

void check_needed(const CLI::Option& option, std::initializer_list<const CLI::Option*> others) {
  const auto given = [](const CLI::Option* o) { return o->count() != 0; };
  if (!given(&option) || in_environment(option) || std::ranges::any_of(others, given)) return;
  std::string names;
  for (const CLI::Option* o : others) names += (names.empty() ? "" : " or ") + o->get_name();
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: does nothing without {}; give that too", option.get_name(), names))
      .at_field(option.get_name());
}

Error unknown_word(const CLI::App& command, const std::string& word,
                   const std::vector<LaterCommand>& later) {
  const bool flag = word.starts_with('-');
  const std::string bare = word.substr(0, word.find('='));
  std::vector<std::string> known;
  if (flag) known = flags_of(command, false);
  for (const CLI::App* s : command.get_subcommands([](const CLI::App*) { return true; })) {
    if (!flag) known.push_back(s->get_name());
  }
  for (const LaterCommand& l : later) {
    if (flag || command.get_parent() != nullptr || word != l.name) continue;
    return Error(ErrorCode::kUsage,
                 fmt::format("{}: {} not in this version; see `headrace --help`", word, l.what))
        .at_field(word);
  }
  const std::string near = nearest_word(bare, known);
  const std::string advice =
      near.empty() ? "see --help" : fmt::format("did you mean {}? See --help", near);
  const char* what = flag ? "flag" : known.empty() ? "argument" : "command";
  return Error(ErrorCode::kUsage, fmt::format("{}: unknown {}; {}", bare, what, advice))
      .at_field(bare);
}

Error usage_error(const CLI::App& command, const CLI::ParseError& refused,
                  const std::vector<std::string>& args) {
  std::string text = refused.what(), name = "command line", why = text, advice = "see --help";
  const std::string convert = "Could not convert: ", needed = " is required";
  if (text.starts_with(convert)) {
    text = text.substr(convert.size());
    const size_t equals = text.find(" = ");
    name = text.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 3);
    why = fmt::format("{} is not {}", value, article(find_option(command, name)));
    advice = "give one";
  } else if (text.ends_with(needed)) {
    name = text.substr(0, text.size() - needed.size());
    why = "missing";
    advice = "give it, see --help";
  } else if (text.starts_with("--") && text.find(": ") != std::string::npos) {
    name = text.substr(0, text.find(": "));
    why = text.substr(text.find(": ") + 2);
    if (why.starts_with("At Most 1 required")) {
      why = "given more than once";
      advice = "give it once";
    } else if (why.ends_with("missing")) {  // "1 required TEXT missing"
      why = "no value";
      advice = "give one";
    }
  } else if (text.starts_with("--")) {
    name = text.substr(0, text.find(' '));
    why = text.substr(std::min(text.size(), name.size() + 1));
  }
  const CLI::Option* option = name.starts_with("-") ? find_option(command, name) : nullptr;
  const auto given = [&](const std::string& arg) {
    if (option == nullptr) return false;
    for (const std::string& n : option->get_lnames()) {
      if (arg == "--" + n || arg.starts_with("--" + n + "=")) return true;
    }
    for (const std::string& n : option->get_snames()) {
      if (arg.starts_with("-" + n)) return true;
    }
    return false;
  };
  if (option != nullptr && in_environment(*option) && std::none_of(args.begin(), args.end(), given))
    name = option->get_envname();
  return Error(ErrorCode::kUsage, fmt::format("{}: {}; {}", name, why, advice)).at_field(name);
}

void append_config(const CLI::App& command, const std::string& path,
                   std::vector<std::string>& args) {
  const YAML::Node root = load_config(path);
  std::vector<std::string> added;
  for (const auto& item : root) {
    const std::string written = scalar(item.first, path, "(a key)");
    std::string key = written;
    std::replace(key.begin(), key.end(), '_', '-');
    const CLI::Option* option = find_option(command, "--" + key);
    if (option == nullptr || key == "config" || key == "help") {
      std::vector<std::string> keys = flags_of(command, false);
      std::erase_if(keys, [](const std::string& flag) {
        return !flag.starts_with("--") || flag == "--config" || flag == "--help";
      });
      const std::string near = nearest_word("--" + key, keys);
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: unknown key {}; {}", path, written,
                              near.empty() ? "see --help" : "did you mean " + near.substr(2) + "?"))
          .at_path(path)
          .at_field(written);
    }
    if (in_environment(*option) || option->count() != 0) continue;
    for (const std::string& value : values_of(item.second, path, key)) {
      if (option->get_expected_max() != 0) {
        added.push_back("--" + key + "=" + value);
      } else if (truth(value, path, written)) {
        added.push_back("--" + key);
      }
    }
  }
  // Before a bare "--", behind which words are no flags.
  args.insert(std::find(args.begin(), args.end(), "--"), added.begin(), added.end());
}

}  // namespace headrace::engine::cli
