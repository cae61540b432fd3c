// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC'11): a draw is a pure function of (seed, stream, counter), the same on every
// machine, in any order, on CPU and GPU.
#pragma once

#include <array>
#include <cstdint>

namespace headrace {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high, uint64_t counter_low);

// A cheap sequential view of one stream, for tests and generators.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}
  uint32_t next_u32();
  uint64_t next_u64();
  uint64_t below(uint64_t bound);  // uniform in [0, bound); bound > 0
  uint64_t between(uint64_t least, uint64_t most) { return least + below(most - least + 1); }
  double uniform();  // [0, 1), 53 bits
  float normal();    // mean 0, deviation 1
  bool chance(double probability) { return uniform() < probability; }

 private:
  uint64_t seed_, stream_, counter_ = 0;
  std::array<uint32_t, 4> block_{};
  unsigned left_ = 0;
};

}  // namespace headrace
