// What the commands of the `headrace` program share: flags, output, logging, signals. Results go to
// stdout, everything else to stderr.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "engine/session.h"
#include "engine/tokenizer/tokenizer.h"

namespace headrace::engine::cli {

struct Common {
  bool json = false, quiet = false;
  std::string log_level = "info", log_format = "text", color = "auto", config;
};

// One line on stderr: "headrace: warning: …", or a JSON object with --log-format json.
enum class Level : uint8_t { kDebug, kInfo, kWarning, kError };
void log(const Common& common, Level level, const std::string& text);

bool shows(const Common& common, Level level);  // whether log() would print it

void print_json(const json::object& value);  // one line on stdout
void print_text(const std::string& text);    // to stdout, as it is
void print_aside(const std::string& text);   // to stderr, which may lose it

// The signal that came in, or 0. handle_signals() makes the first SIGINT or SIGTERM set it; a
// second ends the process at once.
void handle_signals();
// Before any file is opened: one that got the number of a closed stream would be printed into.
void open_standard_streams();
extern volatile bool g_stop;
int caught_signal();
void throw_if_stopped();  // Error(kInterrupted)

// A file that appears under its name when it is whole: written beside it, renamed by commit(),
// removed when that never comes. What is there and is no regular file (/dev/stdout) is written as
// it is.
class OutputFile {
 public:
  OutputFile(std::string path, const char* flag);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(int error) const;
  std::string path_, temporary_;  // temporary_ is empty once there is nothing to remove
  const char* flag_;
  std::FILE* file_;
};

struct Silent {
  int exit_code;
};  // ends the program: everything has been said

// Progress of long work: a bar with rate and time left on a terminal, else a line every few
// seconds.
class ProgressBar {
 public:
  explicit ProgressBar(const Common& common);
  void update(const char* what, Bytes done, Bytes total);
  // Of requests; the time left follows from `tokens` so far and the most that may come.
  void count(const char* what, uint64_t done, uint64_t total, uint64_t tokens,
             uint64_t tokens_left);
  void finish();  // clears the bar

 private:
  bool due(const char* what);
  void show(double part, const std::string& text);
  const Common& common_;
  bool terminal_;
  const char* what_ = nullptr;
  double begin_s_ = 0, last_s_ = 0;
  bool shown_ = false;
};

// Flags of every command that runs or plans a model.
struct RunFlags {
  std::string memory, device_memory, disk_memory, kv_memory, disk_rate;
  std::string store, policy = "auto", io_engine = "auto", isa = "auto", machine, plan, trace,
                     device = "auto";
  int prefetch_depth = -1;
  unsigned threads = 0;
};
void add_run_flags(CLI::App& command, RunFlags& flags);
void add_plan_flag(CLI::App& command, RunFlags& flags);   // --plan FILE
void add_trace_flag(CLI::App& command, RunFlags& flags);  // --trace FILE
SessionOptions session_options(const RunFlags& flags, const Common& common, ProgressBar* bar);
void note_device(const RunFlags& flags, const Common& common);  // where it runs, and why there
Bytes free_disk(const std::string& folder);                     // there, or where it would be made
Bytes parse_size(const std::string& text, const char* flag,
                 std::optional<Bytes> whole = std::nullopt);

// A flag of the contract that belongs to a later version: refused with exit code 2.
void refuse_flags(CLI::App& command, const std::vector<std::string>& flags,
                  const std::string& what);

// A check of flags of 64 bits, whose numbers CLI11 bends into the range.
std::string whole_number(const std::string& text);

// The tokenizer of a model folder, or null when it has none.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder);
// For what can do with token ids: also null when it is not supported, and `unsupported` says why.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder,
                                          std::optional<Error>& unsupported);
void warn_of_tokenizer(const std::optional<Error>& unsupported, const Common& common);
Bytes tokenizer_memory(const std::string& folder);
std::vector<int32_t> parse_ids(const std::string& text, const char* flag = "--ids");  // "1,2,3"
json::array ids_json(std::span<const int32_t> ids);
// All that stdin or a pipe gives, until its end or a signal. Text beyond `keep` bytes is counted
// and not kept; more than `most` is refused.
struct StreamText {
  std::string text;
  Bytes bytes = 0;
};
StreamText read_stream(int descriptor, const std::string& name, Bytes keep, Bytes most);
std::string lossless(const std::string& text);  // invalid UTF-8 replaced, for JSON
std::string one_line(const std::string& text);  // control characters replaced, for messages

// A command: registers its flags on `app` and gives what runs it.
struct Command {
  CLI::App* app = nullptr;
  std::function<void()> run;
};
using AddCommand = Command (*)(CLI::App& app, Common& common);
Command add_generate(CLI::App&, Common&);
Command add_logits(CLI::App&, Common&);
Command add_perplexity(CLI::App&, Common&);
Command add_tokenize(CLI::App&, Common&);
Command add_detokenize(CLI::App&, Common&);
Command add_plan(CLI::App&, Common&);
Command add_inspect(CLI::App&, Common&);
Command add_synth(CLI::App&, Common&);
Command add_doctor(CLI::App&, Common&);
Command add_profile(CLI::App&, Common&);
Command add_store(CLI::App&, Common&);
Command add_bench(CLI::App&, Common&);
Command add_version(CLI::App&, Common&);

}  // namespace headrace::engine::cli
