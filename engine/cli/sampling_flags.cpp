#include "engine/cli/sampling_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "engine/cli/common.h"
#include "engine/generation_config.h"

namespace headrace::engine::cli {

namespace {

// "42=-1.5"
std::pair<int32_t, float> parse_bias(const std::string& text) {
  const size_t sign = std::min(text.find('='), text.size());
  const char* end = text.data() + text.size();
  int32_t id = -1;
  float bias = 0;
  const auto [stop, bad_id] = std::from_chars(text.data(), text.data() + sign, id);
  const char* number = std::min(text.data() + sign + 1, end);
  if (number != end && *number == '+') ++number;
  const auto [last, bad_bias] = std::from_chars(number, end, bias);
  if (bad_id != std::errc() || stop != text.data() + sign || id < 0 || number == end ||
      bad_bias != std::errc() || last != end) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--logit-bias: \"{}\" is not ID=VALUE; give a token id and a number "
                            "like 42=-1.5",
                            text))
        .at_field("--logit-bias");
  }
  return {id, bias};
}

std::vector<std::pair<int32_t, float>> parse_biases(const std::vector<std::string>& texts) {
  std::vector<std::pair<int32_t, float>> biases;
  for (const std::string& text : texts) {
    const auto bias = parse_bias(text);
    const bool twice = std::any_of(biases.begin(), biases.end(),
                                   [&](const auto& b) { return b.first == bias.first; });
    if (twice) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--logit-bias: token {} twice; give it once", bias.first))
          .at_field("--logit-bias");
    }
    biases.push_back(bias);
  }
  return biases;
}

template <typename T, typename U>
void take(const std::optional<T>& flag, U& into) {
  if (flag) into = *flag;
}

}  // namespace

void add_sampling_flags(CLI::App& command, SamplingFlags& f) {
  const char* group = "Sampling";
  const auto add = [&](const char* name, auto& value, const char* text) {
    return command.add_option(name, value, text)->group(group);
  };
  command.add_option("-n,--max-tokens", f.max_tokens, "tokens to generate (default 256)");
  add("--min-tokens", f.min_tokens, "no end token or stop id before so many tokens (default 0)");
  command.add_flag("--ignore-eos", f.ignore_eos, "go on past the end token");
  add("--temperature", f.temperature, "0: greedy (default)");
  add("--top-k", f.top_k, "sample among the K most likely (0: off)");
  add("--top-p", f.top_p, "sample among the most likely that reach P (1: off)");
  add("--min-p", f.min_p, "sample among those with P times the highest probability (0: off)");
  add("--typical-p", f.typical_p, "sample among the most typical that reach P (1: off)");
  add("--repetition-penalty", f.repetition_penalty,
      "divide logits of tokens in prompt and output (1: off)");
  add("--presence-penalty", f.presence_penalty,
      "subtract from logits of tokens in the output (0: off)");
  add("--frequency-penalty", f.frequency_penalty,
      "subtract for every time that a token is in the output (0: off)");
  add("--logit-bias", f.logit_bias, "ID=VALUE added to a token's logit; may be given several times")
      ->allow_extra_args(false);
  add("--stop", f.stop, "text that ends the output; may be given several times")
      ->allow_extra_args(false);
  add("--stop-token-ids", f.stop_token_ids, "tokens that end the output: 1,2");
  add("--logprobs", f.logprobs, "logarithms of probability, of each token and the K most likely");
  add("--num-return-sequences", f.n, "outputs for each prompt (default 1)");
  add("--seed", f.seed, "seed of sampling")->check(whole_number)->capture_default_str();
}

SamplingParams sampling_params(const SamplingFlags& flags, const ModelFolder& folder) {
  SamplingParams p = model_sampling(folder);
  take(flags.temperature, p.temperature);
  take(flags.top_k, p.top_k);
  take(flags.top_p, p.top_p);
  take(flags.min_p, p.min_p);
  take(flags.typical_p, p.typical_p);
  take(flags.repetition_penalty, p.repetition_penalty);
  take(flags.presence_penalty, p.presence_penalty);
  take(flags.frequency_penalty, p.frequency_penalty);
  take(flags.max_tokens, p.max_tokens);
  take(flags.min_tokens, p.min_tokens);
  take(flags.n, p.n);
  p.logprobs = flags.logprobs;
  p.logit_bias = parse_biases(flags.logit_bias);
  p.stop = flags.stop;
  if (!flags.stop_token_ids.empty()) {
    p.stop_token_ids = parse_ids(flags.stop_token_ids, "--stop-token-ids");
  }
  p.seed = flags.seed;
  p.ignore_eos = flags.ignore_eos;
  check(p, folder.config.vocab_size, Naming::kFlag);
  return p;
}

}  // namespace headrace::engine::cli
