// Sampling as a JSON object asks for it: the fields of a request line. Pure functions.
#pragma once

#include <span>
#include <string_view>

#include "core/json.h"
#include "engine/sampler.h"

namespace headrace::engine {

// `defaults` with what `line` says in its place: max_tokens, min_tokens, temperature, top_k, top_p,
// min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, stop,
// stop_token_ids, logprobs, n, seed, ignore_eos. null stands for the default. Without a seed of its
// own a request with an "id" has one from that of `defaults` and the id. Any field besides these
// and `others`, a wrong type and a value outside its range throw Error(kUsage) with the field's
// name; ids are held to `vocabulary`.
SamplingParams parse_sampling(const json::object& line, const SamplingParams& defaults,
                              std::span<const std::string_view> others, uint64_t vocabulary);

}  // namespace headrace::engine
