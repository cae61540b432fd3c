// What a machine can do, as numbers: read by the simulator and the search, measured by the engine's
// calibration or given as JSON (docs: design of `--machine`, section 5 of the CLI contract).
#pragma once

#include <string>
#include <vector>

#include "core/tier.h"

namespace headrace::scheduler {

struct Rate {  // one edge
  Edge edge;
  double bytes_per_s = 0;
  double latency_s = 0;  // per operation
  // What an operation of its own moves at, where bytes_per_s is held below that; 0: no less.
  double own_bytes_per_s = 0;
};

struct Machine {
  std::string name;
  unsigned threads = 1;
  double matmul_flops_f32 = 0;  // sustained, many rows, all threads
  double matmul_flops_bf16 = 0;
  double memory_read_bytes_per_s =
      0;  // what a one-row product reaches: weights are read once a pass
  double adamw_bytes_per_s = 0;
  std::vector<Rate> rates;  // disk->host, host->disk, host->device, device->host
  bool half_duplex_disk = true;
  Bytes disk_in_flight = 0;  // under way at once, to read at the disk's rate; 0: not known
  std::string measured_date, measured_how;  // empty: described, not measured
  uint64_t hash() const;                    // of every figure; goes into the plan's text

  const Rate* rate(Edge edge) const;
};

}  // namespace headrace::scheduler
