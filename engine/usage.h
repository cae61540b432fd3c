// Which experts the runs of a model picked, kept beside its store: what a run's pools begin to
// expect (docs/format/usage.md). Never required: a file that is missing, damaged or another model's
// is as good as none, and a run that cannot write one says nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/fill.h"

namespace headrace::engine {

inline constexpr uint64_t kMillion = 1'000'000;

struct Usage {
  struct Passes {        // of one kind, as they went
    uint64_t rows = 0;   // of each
    uint64_t count = 0;  // how many: they weigh that much against later ones
    // Millionths: of all experts those picked, of those that do not stay those fetched, and those
    // that would have been if all picks were as likely.
    uint64_t picked = 0, missed = 0, even = 0;
    bool operator==(const Passes&) const = default;
  };
  struct Layer {
    uint64_t rows = 0;
    std::vector<uint64_t> picks;  // of those rows, by expert
    bool operator==(const Layer&) const = default;
  };
  std::vector<Layer> layers;   // routed ones, in order
  std::vector<Passes> passes;  // kPassesMost at most, the oldest first
  bool operator==(const Usage&) const = default;
};

// Nothing picked yet.
Usage empty_usage(const scheduler::Workload& workload);
// Old runs count half once more than a million rows were seen.
void age(Usage& usage);
// Adds passes to those of the same kind, which are as good as a pool of the same size shows them.
void add_passes(Usage& usage, const Usage::Passes& passes);
// What a plan may expect: as those passes were, and as other models' are.
std::vector<scheduler::Locality> localities(const Usage& usage,
                                            const scheduler::Workload& workload);

std::string print_usage(const Usage& usage);
// False, and `out` is as it was: the text is damaged, or not of a model like `out`'s.
bool parse_usage(std::string_view text, Usage& out);

// Of the file `path`; empty_usage() if there is none that fits.
Usage read_usage(const std::string& path, const scheduler::Workload& workload);
// Replaces the file at once or not at all; an empty path is no file.
void write_usage(const std::string& path, const Usage& usage) noexcept;

// A pool's state as a run begins with it.
scheduler::PoolState seeded_state(const scheduler::Plan& plan, const scheduler::Workload& workload,
                                  uint32_t pool, const Usage& usage);

}  // namespace headrace::engine
