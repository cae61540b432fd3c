// `headrace profile`: runs another command with a trace, then reports on it; or reports on a trace.
#include "engine/profile.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "engine/cli/common.h"

namespace headrace::engine::cli {

namespace {

struct Flags {
  std::string output;
  std::vector<std::string> command;
};

// Runs this same program with `args`; its output is its own. Returns its exit code.
int run_self(const std::vector<std::string>& args) {
  std::vector<char*> argv;
  std::string name = "headrace";
  argv.push_back(name.data());
  std::vector<std::string> copy = args;
  for (std::string& a : copy) argv.push_back(a.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execv("/proc/self/exe", argv.data());
    ::_exit(127);
  }
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    if (caught_signal() != 0)
      ::kill(child, caught_signal());  // it cleans up, then we end as it did
  }
  if (child < 0) throw Error(ErrorCode::kFailed, "profile: no process could be started; try again");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// "report TRACE [-o REPORT.html]", in any order; `output` is an -o that came before.
void report(std::vector<std::string> words, std::string output, const Common& common) {
  std::string trace;
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] == "-o" || words[i] == "--output") {
      if (i + 1 == words.size())
        throw Error(ErrorCode::kUsage, "-o: no file; give REPORT.html").at_field("-o");
      output = words[++i];
    } else if (words[i].starts_with("-")) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("profile report: {}: there is no such flag; it takes -o and --json",
                              one_line(words[i])))
          .at_field(one_line(words[i]));
    } else if (trace.empty()) {
      trace = words[i];
    } else {
      trace.clear();
      break;
    }
  }
  if (trace.empty()) {
    throw Error(ErrorCode::kUsage, "profile report: which trace is not said; give one file")
        .at_field("TRACE");
  }
  const TraceReport read = read_trace(trace);
  if (!output.empty()) {
    OutputFile file(output, "-o");
    const std::string page = to_html(read);
    file.write(page.data(), page.size());
    file.commit();
  }
  if (common.json) return print_json(to_json(read));
  if (output.empty()) return print_text(to_text(read));
  log(common, Level::kInfo, fmt::format("{}: written; open it in a browser", output));
}

// The program's own flags in front of `--` hold for the command too, unless it has its own.
void hand_down(const Common& common, std::vector<std::string>& command) {
  const Common usual;
  const auto add = [&](const std::string& flag, const std::string& value) {
    for (const std::string& word : command) {
      if (word == flag || word.starts_with(flag + "=")) return;
    }
    command.push_back(value.empty() ? flag : flag + "=" + value);
  };
  if (common.json) add("--json", "");
  if (common.quiet) add("--quiet", "");
  if (common.log_level != usual.log_level) add("--log-level", common.log_level);
  if (common.log_format != usual.log_format) add("--log-format", common.log_format);
  if (common.color != usual.color) add("--color", common.color);
}

void run_profile(const Flags& flags, Common& common) {
  std::vector<std::string> command = flags.command;
  if (!command.empty() && command.front() == "headrace") command.erase(command.begin());
  if (command.empty()) {
    throw Error(
        ErrorCode::kUsage,
        "profile: no command; write `headrace profile -o TRACE.json.gz -- generate MODEL …`")
        .at_field("COMMAND");
  }
  if (command.front() == "report") {
    // What follows the command is the command's own, and this command is ours.
    if (std::erase(command, "--json") != 0) common.json = true;
    return report(command, flags.output, common);
  }
  if (command.front() != "generate" && command.front() != "logits") {
    throw Error(ErrorCode::kUsage,
                fmt::format("profile: {} moves nothing; give generate or logits", command.front()))
        .at_field("COMMAND");
  }
  const std::string path = flags.output.empty() ? "headrace-trace.json.gz" : flags.output;
  command.insert(command.end(), {"--trace", path});
  hand_down(common, command);
  if (const int code = run_self(command); code != 0) throw Silent{code};
  if (common.json || !shows(common, Level::kInfo)) return;  // stdout has the command's own object
  if (common.log_format == "json")
    return log(common, Level::kInfo, headrace::to_text(to_json(read_trace(path))));
  print_aside(
      fmt::format("\n{}\ntrace: {} (opens in ui.perfetto.dev)\n", to_text(read_trace(path)), path));
}

}  // namespace

Command add_profile(CLI::App& app, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("profile",
                                   "trace and swap report of a command: profile [-o TRACE.json.gz] "
                                   "-- generate …; profile report TRACE");
  c->add_option("-o,--output", flags->output, "the trace to write: .json or .json.gz");
  c->add_option("COMMAND", flags->command, "the command after --, or: report TRACE");
  c->positionals_at_end();
  return {c, [flags, &common] { run_profile(*flags, common); }};
}

}  // namespace headrace::engine::cli
