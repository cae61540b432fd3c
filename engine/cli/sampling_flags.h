// The flags of sampling: what a command line says over what the model's own settings say.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/model_folder.h"
#include "engine/sampler.h"

namespace headrace::engine::cli {

struct SamplingFlags {
  std::optional<double> temperature, top_p, min_p, typical_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint32_t> top_k, max_tokens, min_tokens, logprobs, n;
  std::vector<std::string> logit_bias, stop;
  std::string stop_token_ids;
  uint64_t seed = 0;
  bool ignore_eos = false;
};

void add_sampling_flags(CLI::App& command, SamplingFlags& flags);

// Throws Error(kUsage) that names the flag, Error(kFormat) for generation_config.json.
SamplingParams sampling_params(const SamplingFlags& flags, const ModelFolder& folder);

}  // namespace headrace::engine::cli
