#include "engine/store_wait.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "core/error.h"
#include "swap/busy.h"

namespace headrace::engine {

namespace {

constexpr double kWriterPatienceS = 600;  // without a byte written
constexpr int kTriesMax = 8;              // others may begin, end or look at any moment
constexpr auto kBetweenTries = std::chrono::milliseconds(100);

}  // namespace

bool while_free(const SessionOptions& options, const std::string& path,
                const std::function<bool()>& use) {
  for (int tries = 1;; ++tries) {
    if (swap::writer_at_work(path)) {
      if (options.note) {
        options.note(fmt::format("waiting for another process, which makes the store {}", path));
      }
      swap::wait_for_writer(path, kWriterPatienceS, [&] {
        if (options.progress) options.progress("prepare", 0, 0);  // may end the run
      });
    }
    try {
      return use();
    } catch (const Error& error) {
      const bool busy = error.code() == ErrorCode::kFailed && error.path() == path;
      if (!busy || tries == kTriesMax) throw;
    }
    std::this_thread::sleep_for(kBetweenTries);
  }
}

}  // namespace headrace::engine
