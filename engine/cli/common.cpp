#include "engine/cli/common.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/clock.h"
#include "engine/limits.h"
#include "engine/planning.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine::cli {

volatile bool g_stop = false;

namespace {

volatile std::sig_atomic_t g_signal = 0;

void on_signal(int signal) {
  if (g_signal != 0) ::_exit(128 + signal);
  g_signal = signal;
  g_stop = true;
}

const char* name_of(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
  }
  return "";
}

bool colored(const Common& common) {
  return common.color == "always" || (common.color == "auto" && ::isatty(STDERR_FILENO) != 0);
}

// A trace is written when all is done: too late to learn that its folder is not there.
void check_folder(const std::string& file, const char* flag) {
  if (file.empty()) return;
  const std::filesystem::path parent = std::filesystem::absolute(file).parent_path();
  if (::access(parent.c_str(), W_OK | X_OK) == 0) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: cannot be written: {}; check {}", file, std::strerror(errno), flag))
      .at_path(file)
      .at_field(flag);
}

}  // namespace

bool shows(const Common& common, Level level) {
  const char* least_name = common.quiet ? "error" : common.log_level.c_str();
  Level least = Level::kInfo;
  for (Level l : {Level::kDebug, Level::kInfo, Level::kWarning, Level::kError}) {
    if (std::string_view(name_of(l)) == least_name) least = l;
  }
  return level >= least;
}

void log(const Common& common, Level level, const std::string& text) {
  if (!shows(common, level)) return;
  if (common.log_format == "json") {
    const json::object line{{"level", name_of(level)}, {"message", lossless(text)}};
    print_aside(to_text(line) + "\n");
  } else if (level == Level::kInfo) {
    print_aside(fmt::format("headrace: {}\n", one_line(text)));
  } else {
    const bool red = colored(common);
    print_aside(fmt::format("headrace: {}{}{}: {}\n", red ? "\x1b[31m" : "", name_of(level),
                            red ? "\x1b[0m" : "", one_line(text)));
  }
}

void print_aside(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void print_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw Error(ErrorCode::kIo, "stdout: cannot be written; check what reads it");
  }
}

void print_json(const json::object& value) { print_text(to_text(value) + "\n"); }

// ---- files

OutputFile::OutputFile(std::string path, const char* flag) : path_(std::move(path)), flag_(flag) {
  std::error_code ignored;
  const bool in_place =
      std::filesystem::exists(path_, ignored) && !std::filesystem::is_regular_file(path_, ignored);
  if (!in_place) temporary_ = fmt::format("{}.partial-{}", path_, ::getpid());
  file_ = std::fopen((in_place ? path_ : temporary_).c_str(), "wbe");
  if (file_ == nullptr) {
    temporary_.clear();
    fail(errno);
  }
}

OutputFile::~OutputFile() {
  if (file_ != nullptr) std::fclose(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes) fail(errno);
}

void OutputFile::commit() {
  if (std::fclose(std::exchange(file_, nullptr)) != 0) fail(errno);
  if (!temporary_.empty() && std::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  temporary_.clear();
}

void OutputFile::fail(int error) const {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot be written: {}; check {} and the space there",
                                          path_, std::strerror(error), flag_))
      .at_path(path_)
      .at_field(flag_);
}

void open_standard_streams() {
  // The wrong way round, so that what reads or prints a result is refused; notes go nowhere.
  for (const auto& [descriptor, flags] :
       {std::pair{STDIN_FILENO, O_WRONLY}, {STDOUT_FILENO, O_RDONLY}, {STDERR_FILENO, O_WRONLY}}) {
    if (::fcntl(descriptor, F_GETFD) == -1 && errno == EBADF) ::open("/dev/null", flags);
  }
}

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write, not the end
}

int caught_signal() { return g_signal; }

void throw_if_stopped() {
  if (g_stop) throw Error(ErrorCode::kInterrupted, "interrupted: stopped as asked; run it again");
}

// ---- progress

ProgressBar::ProgressBar(const Common& common)
    : common_(common), terminal_(::isatty(STDERR_FILENO) != 0 && common.log_format == "text") {}

bool ProgressBar::due(const char* what) {
  throw_if_stopped();
  if (common_.quiet) return false;
  const double now = steady_clock().seconds();
  if (what != what_) {
    finish();
    what_ = what;
    begin_s_ = last_s_ = now;
  }
  if (now - last_s_ < (terminal_ ? 0.1 : 5.0)) return false;
  last_s_ = now;
  return true;
}

void ProgressBar::update(const char* what, Bytes done, Bytes total) {
  if (!due(what) || total == 0) return;
  const double speed = static_cast<double>(done) / (last_s_ - begin_s_);
  const double left = speed > 0 ? static_cast<double>(total - done) / speed : 0;
  const double part = static_cast<double>(done) / static_cast<double>(total);
  show(part,
       fmt::format("{}: {} of {} ({:.0f} %), {}/s, {:.0f} s left", what, format_bytes(done),
                   format_bytes(total), 100 * part, format_bytes(static_cast<Bytes>(speed)), left));
}

void ProgressBar::count(const char* what, uint64_t done, uint64_t total, uint64_t tokens,
                        uint64_t tokens_left) {
  if (!due(what) || total == 0) return;
  const double speed = static_cast<double>(tokens) / (last_s_ - begin_s_);
  const double left = speed > 0 ? static_cast<double>(tokens_left) / speed : 0;
  const double part = static_cast<double>(done) / static_cast<double>(total);
  show(part, fmt::format("{}: {} of {} requests ({:.0f} %), {:.1f} tokens/s, {:.0f} s left", what,
                         done, total, 100 * part, speed, left));
}

void ProgressBar::show(double part, const std::string& text) {
  if (!terminal_) return log(common_, Level::kInfo, text);
  const size_t width = 24, full = static_cast<size_t>(std::clamp(part, 0.0, 1.0) * width);
  print_aside(fmt::format("\r\x1b[K[{}{}] {}", std::string(full, '#'),
                          std::string(width - full, '.'), text));
  shown_ = true;
}

void ProgressBar::finish() {
  if (shown_) print_aside("\r\x1b[K");
  shown_ = false;
}

// ---- flags

void add_run_flags(CLI::App& command, RunFlags& f) {
  const auto option = [&](const char* flag, auto& value, const char* env, const char* help) {
    return command.add_option(flag, value, help)->envname(env)->capture_default_str()->group("Run");
  };
  option("--memory", f.memory, "HEADRACE_MEMORY",
         "most memory of the whole process: 8GiB, 500MB, 90% (default: 80% of what is available)");
  option("--device-memory", f.device_memory, "HEADRACE_DEVICE_MEMORY", "memory of the device tier");
  option("--disk-memory", f.disk_memory, "HEADRACE_DISK_MEMORY",
         "most disk that the store may take");
  option("--kv-memory", f.kv_memory, "HEADRACE_KV_MEMORY", "most memory for keys and values");
  option("--store", f.store, "HEADRACE_STORE",
         "folder of prepared stores, or none: run from the model's own files (default: the user's "
         "cache)");
  option("--policy", f.policy, "HEADRACE_POLICY",
         "auto, pin, stream, lru or sync; never changes results");
  option("--prefetch-depth", f.prefetch_depth, "HEADRACE_PREFETCH_DEPTH",
         "chunks read ahead (-1: planned)")
      ->check(CLI::Range(-1, 4096));
  option("--io-engine", f.io_engine, "HEADRACE_IO_ENGINE", "how the disk is read")
      ->check(CLI::IsMember({"auto", "io_uring", "pread"}));
  option("--isa", f.isa, "HEADRACE_ISA",
         "kernels: auto, avx512, avx2, scalar, reference; may change the last bit");
  option("--threads", f.threads, "HEADRACE_THREADS",
         "compute threads (0: all); same bits for every number")
      ->check(CLI::Range(0, 1024));
  option("--device", f.device, "HEADRACE_DEVICE", "where to compute")
      ->check(CLI::IsMember({"auto", "cpu"}));
  option("--disk-rate", f.disk_rate, "HEADRACE_DISK_RATE", "hold the disk to SIZE per second");
  option("--machine", f.machine, "HEADRACE_MACHINE",
         "plan for the machine that this JSON file describes");
}

void add_plan_flag(CLI::App& command, RunFlags& flags) {
  command.add_option("--plan", flags.plan, "run this plan")->group("Run");
}

void add_trace_flag(CLI::App& command, RunFlags& flags) {
  command.add_option("--trace", flags.trace, "write a Chrome trace: FILE.json or .json.gz")
      ->group("Run");
}

Bytes parse_size(const std::string& text, const char* flag, std::optional<Bytes> whole) {
  const std::optional<Bytes> bytes = parse_bytes(text, whole);
  if (bytes) return *bytes;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {} is not a size; give one like 8GiB, 500MB{} or bytes", flag, text,
                          whole ? ", 90%" : ""))
      .at_field(flag);
}

Bytes free_disk(const std::string& folder) {
  std::error_code unknown;
  std::filesystem::path place = std::filesystem::absolute(folder, unknown);
  while (place.has_relative_path() && !std::filesystem::exists(place, unknown))
    place = place.parent_path();
  const auto space = std::filesystem::space(place, unknown);
  return unknown ? 0 : space.available;
}

SessionOptions session_options(const RunFlags& f, const Common& common, ProgressBar* bar) {
  SessionOptions o;
  const auto size = [](const std::string& text, const char* flag,
                       std::optional<Bytes> whole) -> std::optional<Bytes> {
    if (text.empty()) return std::nullopt;
    return parse_size(text, flag, whole);
  };
  o.memory = size(f.memory, "--memory", available_memory());
  o.device_memory =
      size(f.device_memory, "--device-memory", o.memory ? *o.memory : available_memory());
  o.kv_memory = size(f.kv_memory, "--kv-memory", o.memory ? *o.memory : available_memory());
  o.store = f.store;
  o.disk_memory = size(f.disk_memory, "--disk-memory", free_disk(stores_folder(o)));
  o.disk_rate = size(f.disk_rate, "--disk-rate", std::nullopt).value_or(0);
  o.choices.policy = f.policy;
  if (f.prefetch_depth >= 0) o.choices.prefetch_depth = static_cast<uint32_t>(f.prefetch_depth);
  o.io_engine = f.io_engine;
  o.isa = f.isa;
  o.threads = f.threads;
  o.machine_file = f.machine;
  o.plan_file = f.plan;
  o.trace_file = f.trace;
  check_folder(f.trace, "--trace");
  if (bar != nullptr) {
    o.progress = [bar](const char* what, Bytes done, Bytes total) {
      bar->update(what, done, total);
    };
  }
  o.note = [&common](const std::string& text) { log(common, Level::kInfo, text); };
  return o;
}

void note_device(const RunFlags& f, const Common& common) {
  if (f.device != "auto") return;
  log(common, Level::kInfo, "runs on the CPU: this version has no kernels for a GPU");
}

void refuse_flags(CLI::App& command, const std::vector<std::string>& flags,
                  const std::string& what) {
  for (const std::string& flag : flags) {
    command
        .add_option_function<std::vector<std::string>>(
            flag,
            [flag, what](const std::vector<std::string>&) {
              throw Error(ErrorCode::kUsage,
                          fmt::format("{}: {} not in this version; leave it out", flag, what))
                  .at_field(flag);
            },
            "")
        ->expected(0, 1)
        ->group("");
  }
}

std::string whole_number(const std::string& text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end && !text.empty()) return "";
  return fmt::format("{} is not a whole number from 0 to {}", text, UINT64_MAX);
}

// ---- inputs

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder) {
  if (!std::filesystem::exists(std::filesystem::path(folder) / "tokenizer.json")) return nullptr;
  return Tokenizer::load(folder);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& folder,
                                          std::optional<Error>& unsupported) {
  try {
    return load_tokenizer(folder);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    unsupported = error;
    return nullptr;
  }
}

void warn_of_tokenizer(const std::optional<Error>& unsupported, const Common& common) {
  if (!unsupported) return;
  log(common, Level::kWarning,
      fmt::format("{}; until then there are token ids alone", unsupported->what()));
}

Bytes tokenizer_memory(const std::string& folder) {
  if (!std::filesystem::exists(std::filesystem::path(folder) / "tokenizer.json")) return 0;
  return Tokenizer::memory_bound(folder);
}

std::vector<int32_t> parse_ids(const std::string& text, const char* flag) {
  std::vector<int32_t> ids;
  size_t begin = 0;
  while (begin <= text.size() && !text.empty()) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, comma - begin);
    int32_t id = 0;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), id);
    if (error != std::errc() || end != item.data() + item.size() || id < 0) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: \"{}\" is not a token id; give numbers like 1,2,3", flag, item))
          .at_field(flag);
    }
    ids.push_back(id);
    begin = comma + 1;
  }
  if (ids.empty()) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: empty; give numbers like 1,2,3", flag))
        .at_field(flag);
  }
  return ids;
}

json::array ids_json(std::span<const int32_t> ids) {
  json::array out;
  for (int32_t id : ids) out.emplace_back(id);
  return out;
}

StreamText read_stream(int descriptor, const std::string& name, Bytes keep, Bytes most) {
  StreamText out;
  std::vector<char> piece(64 * kKiB);
  for (;;) {
    const ssize_t got = ::read(descriptor, piece.data(), piece.size());
    throw_if_stopped();
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(ErrorCode::kIo, fmt::format("{}: cannot be read: {}; check what writes it", name,
                                              std::strerror(errno)))
          .at_path(name);
    }
    if (got == 0) return out;
    out.bytes += static_cast<Bytes>(got);
    if (out.bytes > most) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: more than the limit of {}; give less", name, format_bytes(most)))
          .at_path(name);
    }
    if (out.bytes <= keep) out.text.append(piece.data(), static_cast<size_t>(got));
  }
}

std::string lossless(const std::string& text) {
  std::string repaired;
  return std::string(to_utf8(text, repaired));
}

std::string one_line(const std::string& text) {
  std::string out = text;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

}  // namespace headrace::engine::cli
