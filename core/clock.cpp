#include "core/clock.h"

#include <chrono>

namespace headrace {
namespace {

class SteadyClock final : public Clock {
 public:
  uint64_t now_ns() const override {
    const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(since_start).count());
  }
};

}  // namespace

const Clock& steady_clock() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace headrace
