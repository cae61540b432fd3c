#include "engine/limits.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace headrace::engine {

namespace {

// First number of a one-line file; 0 when there is none ("max", no such file).
uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : 0;
}

Bytes proc_field(const char* path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field, 0) != 0) continue;
    std::istringstream rest(line.substr(field.size()));
    Bytes kib = 0;
    if (rest >> kib) return kib * kKiB;
  }
  return 0;
}

// Path of this process in a cgroup hierarchy: "" for version 2, a controller's name for version 1.
std::string cgroup_path(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool match = controller.empty() ? names == ",,"
                                          : names.find("," + controller + ",") != std::string::npos;
    if (match) return line.substr(second + 1);
  }
  return "";
}

// The tightest limit on the way from this process's group to the root; 0: none.
Bytes tightest(const std::string& root, std::string path, const char* file) {
  Bytes limit = 0;
  while (true) {
    const Bytes here = read_number(root + path + "/" + file);
    if (here != 0 && (limit == 0 || here < limit)) limit = here;
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty()) return limit;
    path.resize(slash);
  }
}

}  // namespace

Bytes available_memory() {
  Bytes available = proc_field("/proc/meminfo", "MemAvailable:");
  for (const Bytes limit :
       {tightest("/sys/fs/cgroup/memory", cgroup_path("memory"), "memory.limit_in_bytes"),
        tightest("/sys/fs/cgroup", cgroup_path(""), "memory.max"),
        tightest("/sys/fs/cgroup", cgroup_path(""), "memory.high")}) {  // beyond: slowed to a crawl
    if (limit != 0) available = std::min(available, limit);
  }
  return available;
}

unsigned available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = 1;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) count = std::max(1, CPU_COUNT(&set));
  std::ifstream quota("/sys/fs/cgroup" + cgroup_path("") + "/cpu.max");
  double allowed = 0, period = 0;
  if (quota >> allowed >> period && period > 0) {
    count = std::clamp(static_cast<int>(std::ceil(allowed / period)), 1, count);
  }
  return static_cast<unsigned>(count);
}

Bytes peak_rss() { return proc_field("/proc/self/status", "VmHWM:"); }

std::string default_cache_root() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && xdg[0] == '/') return std::string(xdg) + "/headrace";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr && home[0] == '/' ? home : "/tmp") + "/.cache/headrace";
}

}  // namespace headrace::engine
