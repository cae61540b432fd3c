// Several products as one loop, whose turns threads take as they come: they meet once, when all is
// done. A turn computes a piece of one product.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

constexpr uint32_t kProductsMax = 64;      // of one loop
constexpr uint64_t kWorthThreads = 65536;  // multiplications: a few microseconds

inline uint64_t panels_of(const MatmulArgs& a) { return (a.n + kLanes - 1) / kLanes; }
inline uint64_t work_of(const MatmulArgs& a) { return a.m * a.n * a.k; }

// Which of the products whose shares of a loop begin at first[0..count) a turn belongs to.
inline uint32_t product_of(const uint32_t* first, uint32_t count, uint32_t turn) {
  uint32_t low = 0, high = count;  // first[low] <= turn < first[high]
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (first[middle] <= turn ? low : high) = middle;
  }
  return low;
}

// Calls body(turn) for as many turns, by all threads if that much work is worth waking them.
template <typename Body>
inline void for_turns(ThreadPool& pool, uint32_t turns, uint64_t work, const Body& body) {
  if (work >= kWorthThreads) return pool.run(turns, body);
  for (uint32_t turn = 0; turn < turns; ++turn) body(turn);
}

}  // namespace
}  // namespace headrace::kernels
