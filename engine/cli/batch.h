// `headrace generate MODEL -i IN.jsonl -o OUT.jsonl`: a batch from a file, which can be stopped and
// goes on where it was.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/cli/common.h"
#include "engine/sampler.h"

namespace headrace::engine::cli {

struct BatchFlags {
  std::string model, input, output, chat_template, route_trace;
  uint32_t max_sequences = 0;
  RunFlags run;
  // What stands where a line says nothing.
  std::function<SamplingParams(const ModelFolder&)> defaults;
  std::function<std::vector<int32_t>(const ModelFolder&)> stop_ids;
};
void run_batch(const BatchFlags& flags, const Common& common);

}  // namespace headrace::engine::cli
