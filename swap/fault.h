// What a read that failed means to the user: one place for the pager's error messages.
#pragma once

#include <cstdint>
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

}  // namespace headrace::swap
