#include "core/error.h"

#include <cstdio>
#include <cstdlib>

namespace headrace {

std::string_view name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kFailed:
      return "failed";
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kInfeasible:
      return "infeasible";
    case ErrorCode::kFormat:
      return "format";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kCorrupt:
      return "corrupt";
    case ErrorCode::kInterrupted:
      return "interrupted";
  }
  return "failed";
}

// Allocates nothing: the assertion may have failed because memory ran out.
void assertion_failed(const char* condition, const char* file, int line,
                      const std::string& values) {
  std::fprintf(stderr, "headrace: assertion failed: %s at %s:%d%s%s\n", condition, file, line,
               values.empty() ? "" : ": ", values.c_str());
  std::abort();
}

}  // namespace headrace
