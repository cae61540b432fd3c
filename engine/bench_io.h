// `headrace bench io`: how fast the product's own way of reading is (pager, checksums), beside what
// the backend gives without all that, in the same minutes and from the same bytes.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/tier.h"

namespace headrace::engine {

struct BenchIoOptions {
  std::string path;              // a store, a folder in which one is made and removed, or any file
  Bytes bytes = kGiB;            // read in a round, at most
  Bytes chunk_bytes = 2 * kMiB;  // where the bench makes the chunks
  std::string io_engine = "auto";
  unsigned rounds = 5;
  bool write = true;           // false: nothing is written where there is something to read
  std::function<void()> tick;  // between rounds; may throw
};

struct BenchIo {
  std::string file, engine, note;
  bool direct = false;
  Bytes bytes = 0;        // of a round
  Bytes block_bytes = 0;  // of a request; a chunk is made of several, or is a smaller one itself
  uint32_t depth = 0;     // requests in flight
  // Medians of the rounds.
  double read_bytes_per_s = 0;
  double raw_bytes_per_s = 0;    // the backend alone: same file, requests and depth
  double read_cpu_s_per_gb = 0;  // of the threads that read, the kernel's part too
  double verify_cpu_s_per_gb = 0;
  std::optional<double> write_bytes_per_s;  // through the store's writer, flushed
};

BenchIo bench_io(const BenchIoOptions& options);

}  // namespace headrace::engine
