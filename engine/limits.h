// What the process may use, as the kernel tells it.
#pragma once

#include <string>

#include "core/tier.h"

namespace headrace::engine {

Bytes available_memory();  // the least of the memory cgroup's limits and the machine's free memory
unsigned available_threads();      // CPUs in the affinity mask, at most the cgroup's quota
Bytes peak_rss();                  // VmHWM of this process
std::string default_cache_root();  // $XDG_CACHE_HOME/headrace, or ~/.cache/headrace

}  // namespace headrace::engine
