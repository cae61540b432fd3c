// What this machine can do, measured in a few seconds and cached; and machine descriptions as JSON,
// the form of `doctor --json` and `--machine FILE` (docs/format/machine.md).
#pragma once

#include <string>

#include "core/json.h"
#include "core/threads.h"
#include "kernels/table.h"
#include "scheduler/machine.h"

namespace headrace::engine {

inline constexpr Bytes kCalibrationMemory = 6 * kMiB;  // what measuring takes, beside the base

scheduler::Machine machine_from_json(const json::value& value, const std::string& what);
scheduler::Machine read_machine(const std::string& path);
json::object machine_to_json(const scheduler::Machine& machine, Bytes host_bytes, Bytes disk_bytes);

struct CalibrateOptions {
  // Read as far as it is of this machine, these threads and this disk; empty: nothing is
  // remembered, and what other runs plan with stays as it is.
  std::string cache_file;
  std::string scratch_folder;  // where a 64 MiB file is made and removed to time the disk
  std::string read_file;       // given: it is read instead, and nothing is written but the cache
  bool again = false;          // measure even when the cache would do
};

// Under 10 s. The disk figures are of 1 MiB direct reads.
scheduler::Machine calibrate(const CalibrateOptions& options, const kernels::Kernels& k,
                             ThreadPool& pool);

}  // namespace headrace::engine
