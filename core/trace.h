// What happened when: scopes on lanes and counters, kept in fixed memory and written as a Chrome
// trace (JSON, opens in Perfetto). With no sink installed a scope costs one branch.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/tier.h"

namespace headrace {

struct TraceEvent {
  static constexpr uint32_t kNoObject = 0xffffffff;
  const char* name = nullptr;  // static text, or interned by Trace::intern
  uint16_t lane = 0;           // index into the lane names
  bool is_transfer = false;    // then edge, kind and bytes hold
  bool is_counter = false;     // then `bytes` is the value and `lane` is unused
  Edge edge{};
  Kind kind{};
  uint32_t object = kNoObject;  // of a transfer: what is moved, an index of the caller's
  Bytes bytes = 0;
  uint64_t begin_ns = 0;
  uint64_t end_ns = 0;
};

// Thread-safe to record. Capacity is fixed; what is recorded past it is dropped and counted.
class Trace {
 public:
  Trace(std::vector<std::string> lanes, size_t events_max, const Clock& clock = steady_clock());

  uint64_t now_ns() const { return clock_.now_ns(); }
  void record(const TraceEvent& event);
  const char* intern(std::string_view text);  // allocates: at set-up, not in the step loop
  size_t dropped() const;

  // One event per line inside {"traceEvents":[…],"otherData":{"version",…}}; gzip when the path
  // ends in .gz. `other` are further "otherData" members, already JSON.
  void write(const std::string& path, const std::string& other_json) const;

 private:
  const Clock& clock_;
  std::vector<std::string> lanes_;
  std::vector<TraceEvent> events_;
  std::atomic<size_t> count_{0};
  std::vector<std::unique_ptr<std::string>> interned_;
};

}  // namespace headrace
