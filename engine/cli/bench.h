// The benchmarks of `headrace bench`, one source each; bench.cpp lists them.
#pragma once

#include "engine/cli/common.h"

namespace headrace::engine::cli {

Command add_bench_kernels(CLI::App& bench, Common&);
Command add_bench_io(CLI::App& bench, Common&);
Command add_bench_generate(CLI::App& bench, Common&);

}  // namespace headrace::engine::cli
