// Time. Everything that waits or measures takes a Clock, so that tests run in virtual time.
#pragma once

#include <cstdint>

namespace headrace {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t now_ns() const = 0;  // monotonic, from an arbitrary start
  double seconds() const { return static_cast<double>(now_ns()) * 1e-9; }
};

const Clock& steady_clock();  // the machine's monotonic clock; thread-safe

class VirtualClock final : public Clock {  // moves only when told; one thread
 public:
  uint64_t now_ns() const override { return now_ns_; }
  void advance_to(uint64_t ns) { now_ns_ = ns > now_ns_ ? ns : now_ns_; }

 private:
  uint64_t now_ns_ = 0;
};

}  // namespace headrace
