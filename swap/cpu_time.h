// Processor time of the calling thread.
#pragma once

#include <time.h>

#include <cstdint>

namespace headrace::swap {

inline uint64_t thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace headrace::swap
