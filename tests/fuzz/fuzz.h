// What a fuzz target defines and what it may use. A target lets Error pass (that is a refusal, the
// right answer to a hostile file); anything else that it throws, every abort and every FUZZ_CHECK
// that fails is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace headrace::fuzz {

std::vector<std::string> fuzz_seeds();  // inputs to start from, most of them legal

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace headrace::fuzz

#define FUZZ_CHECK(...) HEADRACE_ASSERT(__VA_ARGS__)
