#include "swap/busy.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <thread>

#include "core/clock.h"
#include "swap/manifest.h"

namespace headrace::swap {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(100);

// Changes as long as the store's data are written; 0 before there are any.
int64_t last_written(const std::string& folder) {
  struct stat s {};
  if (stat(data_path(folder).c_str(), &s) != 0) return 0;
  return s.st_mtim.tv_sec * 1'000'000'000 + s.st_mtim.tv_nsec;
}

}  // namespace

bool writer_at_work(const std::string& folder) {
  const int lock =
      ::open((folder + "/lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (lock < 0) return false;
  const bool busy = flock(lock, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(lock);
  return busy;
}

bool wait_for_writer(const std::string& folder, double patience_s,
                     const std::function<void()>& tick) {
  double since = steady_clock().seconds();
  int64_t written = last_written(folder);
  while (writer_at_work(folder)) {
    tick();
    std::this_thread::sleep_for(kLookEvery);
    const double now = steady_clock().seconds();
    const int64_t latest = last_written(folder);
    if (latest != written) written = latest, since = now;
    if (now - since > patience_s) return false;
  }
  return true;
}

}  // namespace headrace::swap
