// A backend without a device: files are memory, time is virtual, and the seed decides latencies,
// order and faults. What is given as the files' contents is never damaged: faults are applied to
// what a read delivers, so that a test can compare with the truth.
//
// One thread submits and polls, as for every backend; wake() is for any. A poll that waits moves
// the clock instead of sleeping, unless nothing is in flight and no clock was given: then it sleeps
// until wake().
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/clock.h"
#include "core/tier.h"
#include "swap/io.h"

namespace headrace::swap {

struct SimulatedFaults {  // probabilities per operation
  double short_read = 0;  // a multiple of 512 bytes, possibly none; writes too
  double error = 0;       // EIO, this time; the target is scribbled over
  double interrupted = 0;
  double again = 0;
  double bit_flip = 0;     // one bit of what is delivered
  double misdirected = 0;  // another place of the same file is delivered
  double stale = 0;        // older contents are delivered: `stale`, or zeros
  double stall = 0;        // takes stall_ns longer
  // Per 4 KiB block, decided by the seed alone, so that reading again does not help:
  double bad_block = 0;     // EIO
  double rotten_block = 0;  // one bit is wrong
};

struct SimulatedCounts {  // what was injected; read it once the backend is gone
  uint64_t operations = 0, short_reads = 0, errors = 0, interrupted = 0, again = 0;
  uint64_t bit_flips = 0, misdirected = 0, stale = 0, stalls = 0, bad_blocks = 0, rotten_blocks = 0;
  uint64_t wrong() const { return bit_flips + misdirected + stale + rotten_blocks; }
};

struct SimulatedOptions {
  uint64_t seed = 0;
  SimulatedFaults faults;
  uint64_t latency_least_ns = 50'000;
  uint64_t latency_most_ns = 500'000;
  uint64_t stall_ns = 2'000'000'000;
  Bytes bytes_per_s = 0;  // the device serves one after the other at this rate; 0: all at once
  uint32_t operations_max = 64;
  VirtualClock* clock = nullptr;            // is moved to each completion; null: one of its own
  std::vector<std::span<std::byte>> files;  // contents; writes change them
  std::vector<std::span<const std::byte>> stale;  // older contents by file, may be empty
  SimulatedCounts* counts = nullptr;              // filled where given
};

std::unique_ptr<IoBackend> open_simulated(const SimulatedOptions& options);

}  // namespace headrace::swap
