// The words of a command line: what is nearest to an unknown one, which variables stand for flags,
// and how the keys of a --config file become flags.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "core/error.h"

namespace headrace::engine::cli {

// Names every flag's variable, HEADRACE_ and its long name, except where a flag has one already,
// belongs to a later version, or says what to work on rather than how.
void name_variables(CLI::App& command);

// Whether `option` takes its value from its variable, unless a flag is given.
bool in_environment(const CLI::Option& option);

// Refuses `option` where none of `others` is given, without which it does nothing. Its variable may
// stand all the same: it is for the runs that it suits.
void check_needed(const CLI::Option& option, std::initializer_list<const CLI::Option*> others);

// A word that no option of `command` took. `later` are commands of later versions.
struct LaterCommand {
  const char* name;
  const char* what;  // "training is"
};
Error unknown_word(const CLI::App& command, const std::string& word,
                   const std::vector<LaterCommand>& later);

// What the parser refused, as "FLAG: WHY; DO THIS". `args` tells a flag from its variable.
Error usage_error(const CLI::App& command, const CLI::ParseError& refused,
                  const std::vector<std::string>& args);

// Appends the keys of FILE.yaml as flags, behind those of the command line and the environment.
void append_config(const CLI::App& command, const std::string& path,
                   std::vector<std::string>& args);

}  // namespace headrace::engine::cli
