// Seeds and counts of random tests: HEADRACE_TEST_SEED repeats a failure, HEADRACE_TEST_COUNT makes
// a run longer. Every test puts seed_note() into a SCOPED_TRACE.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

namespace headrace::test {

inline uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

inline uint64_t seed() { return environment_number("HEADRACE_TEST_SEED", 20240607); }

// `count` cases, or that many times HEADRACE_TEST_COUNT.
inline uint64_t cases(uint64_t count) {
  return count * environment_number("HEADRACE_TEST_COUNT", 1);
}

inline std::string seed_note(uint64_t index) {
  return "HEADRACE_TEST_SEED=" + std::to_string(seed()) + ", case " + std::to_string(index);
}

}  // namespace headrace::test
