// What a model's own generation_config.json asks for: the sampling that stands where a caller says
// nothing. Honoured: do_sample, temperature, top_k, top_p, min_p, typical_p, repetition_penalty,
// max_new_tokens, min_new_tokens, eos_token_id. Pure functions; a setting of the wrong type or
// range throws Error(kFormat) with the file and its name.
#pragma once

#include <string>
#include <vector>

#include "engine/model_folder.h"
#include "engine/sampler.h"

namespace headrace::engine {

// Greedy unless the model samples. The filters stand in either case, so that a caller who gives
// just a temperature samples as the model's authors meant it.
SamplingParams model_sampling(const ModelFolder& folder);

// Tokens that end a text: of generation_config.json, else of config.json.
std::vector<int32_t> end_ids(const ModelFolder& folder);

// Settings that would change the text and are left out, as "no_repeat_ngram_size 3".
std::vector<std::string> settings_left_out(const ModelFolder& folder);

}  // namespace headrace::engine
