// What a read that failed means to the user: one place for the pager's error messages.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "swap/reader.h"
#include "swap/store.h"

namespace headrace::swap {

struct FaultPlace {
  ObjectId object = 0;
  uint32_t chunk = 0;
};

// Throws kCorrupt or kIo for `result`, whose fault is not kNone. `engine_failure`: why reads were
// dropped.
[[noreturn]] void throw_fault(const Store& store, const ChunkResult& result,
                              const FaultPlace& place, const std::string& engine_failure);

// A device may stall for seconds and still answer, so a slow request is told of and left alone: its
// memory is the device's until it does.
struct StallWatch {
  uint64_t stall_ns = 0;
  std::function<void(const std::string&)> note;  // may be empty
  uint32_t scratch_file = kNone;  // of the files, the one that is scratch: it has no name
  uint64_t next_look_ns = 0;      // all requests are looked at, which turns are too many for
  uint64_t told_of_ns = 0;        // since when the request was under way that was told of last

  void look(const Reader& reader, const Store& store);
};

}  // namespace headrace::swap
