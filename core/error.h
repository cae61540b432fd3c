// Errors of three kinds (docs/style.md): a programmer's error is an assertion that prints its
// values and aborts; an expected outcome is a return value; what the environment or the user did
// wrong is one exception type, `Error`, thrown at API edges. Its message has the form "WHAT: WHY;
// DO THIS" and names the file, field or flag.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace headrace {

enum class ErrorCode : uint8_t {
  kFailed,       // anything else that ended the run
  kUsage,        // unknown flag, bad value, unknown config key (exit 2)
  kInfeasible,   // does not fit; required_bytes is the smallest budget that would do (exit 3)
  kFormat,       // a file does not say what it must: damaged, truncated, hostile
  kUnsupported,  // a legal file that this version cannot run
  kIo,           // the operating system refused or failed a read or a write
  kCorrupt,      // a checksum did not match
  kInterrupted,  // SIGINT, SIGTERM
};

std::string_view name_of(ErrorCode code);  // "infeasible", as in the JSON field error.type

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  Error&& at_path(std::string path) && { return path_ = std::move(path), std::move(*this); }
  Error&& at_field(std::string field) && { return field_ = std::move(field), std::move(*this); }
  Error&& requiring(uint64_t bytes) && { return required_bytes_ = bytes, std::move(*this); }

  ErrorCode code() const { return code_; }
  const std::string& path() const { return path_; }            // the file, or empty
  const std::string& field() const { return field_; }          // the field or flag, or empty
  uint64_t required_bytes() const { return required_bytes_; }  // 0 unless kInfeasible

 private:
  ErrorCode code_;
  std::string path_;
  std::string field_;
  uint64_t required_bytes_ = 0;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& values);

}  // namespace headrace

// Always on. The optional second argument is a std::string with the values that matter.
#define HEADRACE_ASSERT(condition, ...)                                                       \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] {                                                          \
      ::headrace::assertion_failed(#condition, __FILE__, __LINE__, std::string{__VA_ARGS__}); \
    }                                                                                         \
  } while (false)

#ifdef HEADRACE_DEBUG_ASSERTS
#define HEADRACE_DEBUG_ASSERT(condition, ...) HEADRACE_ASSERT(condition, __VA_ARGS__)
#else
#define HEADRACE_DEBUG_ASSERT(condition, ...) static_cast<void>(0)
#endif
