#include "swap/prompt.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace headrace::swap {
namespace {

// The shortest that the kernel grants. With it reads beside thirty busy threads on two cores went
// from 0.69 to 0.89 of the rate of the disk alone.
constexpr uint64_t kSliceNs = 100'000;

struct Attributes {  // struct sched_attr of the kernel, whose header collides with the C library's
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

}  // namespace

void run_promptly() {
  Attributes a{};
  if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0) return;
  if (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH) return;
  a.size = sizeof a;
  a.runtime = kSliceNs;
  [[maybe_unused]] const long result = syscall(SYS_sched_setattr, 0, &a, 0);
}

}  // namespace headrace::swap
