// Caching with known future on whole objects: the access-string simulator behind the oracles of
// planning. An operation needs all that it reads and writes resident; what it creates comes in for
// free; what is dead after it leaves for free; a clean object leaves for free unless dirty bits are
// off. Victims: least recently used, or furthest next use first (then clean before dirty, larger,
// longest resident).
#pragma once

#include <cstdint>
#include <vector>

#include "core/tier.h"

namespace headrace::scheduler {

struct Access {                               // one operation of the string
  std::vector<uint32_t> reads, writes, dead;  // object indices
  bool end_of_step = false;                   // nothing else is set: closes a step's account
  uint32_t host_gradient = kNoObject,
           host_weight = kNoObject;  // host update: gradient leaves, weight stale
  static constexpr uint32_t kNoObject = 0xffffffffu;
};

struct CacheObject {
  double bytes = 0;
  uint8_t kind = 0;         // caller's: index into StepBytes
  bool kept = false;        // weights, optimizer state: written back even when never used again
  bool free_input = false;  // layer 1's input comes from the data set, not from the store
};

inline constexpr size_t kCacheKinds = 8;
struct StepBytes {
  double in[kCacheKinds] = {}, out[kCacheKinds] = {};
  double total() const;
};

enum class Victim : uint8_t { kLeastRecentlyUsed, kFurthestNextUse };

// Throws Error(kInfeasible) when one operation needs more than `capacity`.
std::vector<StepBytes> replay(const std::vector<Access>& string,
                              const std::vector<CacheObject>& objects, double capacity,
                              Victim victim, bool dirty_bits = true, bool flush = false);

}  // namespace headrace::scheduler
