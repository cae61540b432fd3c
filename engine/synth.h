// Model folders with random weights: what tests, rehearsals and benchmarks run on. Constant memory;
// the same seed gives the same bytes on every machine, in whatever order tensors are written.
#pragma once

#include <functional>
#include <string>

#include "core/json.h"
#include "core/tier.h"

namespace headrace::engine {

struct SynthOptions {
  std::string family = "llama";  // a row of models/families.h
  json::object config;           // when not empty: this config.json instead of the family's example
  json::object set;              // overrides, by config.json key
  Bytes size = 0;                // weights to aim for: layers are chosen; 0: as configured
  std::string dtype = "bfloat16";
  uint64_t seed = 0;
};

struct SynthReport {
  Bytes weight_bytes = 0;
  uint32_t layers = 0, shards = 0;
};

// Writes `out` (made; must not hold a model yet): config.json, generation_config.json, tokenizer
// files, and weights: matrices normal with deviation 0.02 (scaled for depth), norms one, biases
// small.
SynthReport synthesize(const std::string& out, const SynthOptions& options,
                       const std::function<void(Bytes, Bytes)>& progress);

}  // namespace headrace::engine
