// Sampling as request lines and generation_config.json say it: every field, every wrong type.
#include "engine/sampling_json.h"

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "core/error.h"
#include "engine/generation_config.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kOthers[] = {"id", "prompt"};

SamplingParams parse(const std::string& line, const SamplingParams& defaults = {}) {
  return parse_sampling(parse_json(line, "line").as_object(), defaults, kOthers, 100);
}

TEST(SamplingJson, EveryFieldIsTakenOver) {
  const SamplingParams p = parse(
      R"({"id": 7, "prompt": "x", "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_k": 3,
          "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1,
          "presence_penalty": -0.5, "frequency_penalty": 0.25, "logit_bias": {"5": 2, "99": -1.5},
          "stop": ["a", "b"], "stop_token_ids": [4, 5], "logprobs": 0, "n": 3,
          "seed": 18446744073709551615, "ignore_eos": true})");
  EXPECT_EQ(p.max_tokens, 9u);
  EXPECT_EQ(p.min_tokens, 2u);
  EXPECT_EQ(p.temperature, 0.5);
  EXPECT_EQ(p.top_k, 3u);
  EXPECT_EQ(p.top_p, 0.9);
  EXPECT_EQ(p.min_p, 0.1);
  EXPECT_EQ(p.typical_p, 0.8);
  EXPECT_EQ(p.repetition_penalty, 1.1);
  EXPECT_EQ(p.presence_penalty, -0.5);
  EXPECT_EQ(p.frequency_penalty, 0.25);
  EXPECT_EQ(p.logit_bias, (std::vector<std::pair<int32_t, float>>{{5, 2.f}, {99, -1.5f}}));
  EXPECT_EQ(p.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(p.stop_token_ids, (std::vector<int32_t>{4, 5}));
  EXPECT_EQ(p.logprobs, 0u);
  EXPECT_EQ(p.n, 3u);
  EXPECT_EQ(p.seed, ~uint64_t{0});
  EXPECT_TRUE(p.ignore_eos);
  EXPECT_EQ(parse(R"({"stop": "end"})").stop, std::vector<std::string>{"end"});
}

TEST(SamplingJson, DefaultsStandWhereALineSaysNothingOrNull) {
  const SamplingParams defaults{.temperature = 0.3, .top_k = 4, .stop = {"x"}, .logprobs = 2};
  const SamplingParams p = parse(R"({"top_k": null, "top_p": 0.5, "logprobs": null})", defaults);
  EXPECT_EQ(p.temperature, 0.3);
  EXPECT_EQ(p.top_k, 4u);
  EXPECT_EQ(p.top_p, 0.5);
  EXPECT_EQ(p.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(p.logprobs, 2u);
}

TEST(SamplingJson, ASeedComesFromTheLineOrFromTheRunAndTheId) {
  const SamplingParams run{.seed = 5};
  EXPECT_EQ(parse(R"({"id": "a", "seed": 6})", run).seed, 6u);
  EXPECT_EQ(parse(R"({"prompt": "a"})", run).seed, 5u);
  const uint64_t a = parse(R"({"id": "a"})", run).seed;
  EXPECT_EQ(a, parse(R"({"temperature": 1, "id": "a"})", run).seed);
  EXPECT_NE(a, parse(R"({"id": "b"})", run).seed);
  EXPECT_NE(a, parse(R"({"id": "a"})", {.seed = 6}).seed);
  EXPECT_NE(parse(R"({"id": "1"})", run).seed, parse(R"({"id": 1})", run).seed);
}

TEST(SamplingJson, WhatIsWrongIsRefusedByName) {
  const std::pair<const char*, const char*> lines[] = {
      {"max_tokens", R"({"max_tokens": -1})"},
      {"max_tokens", R"({"max_tokens": 1.5})"},
      {"max_tokens", R"({"max_tokens": "9"})"},
      {"max_tokens", R"({"max_tokens": 1e30})"},
      {"max_tokens", R"({"max_tokens": 99999999})"},
      {"temperature", R"({"temperature": true})"},
      {"temperature", R"({"temperature": -0.1})"},
      {"top_p", R"({"top_p": 1.01})"},
      {"typical_p", R"({"typical_p": [1]})"},
      {"logit_bias", R"({"logit_bias": [1]})"},
      {"logit_bias", R"({"logit_bias": {"x": 1}})"},
      {"logit_bias", R"({"logit_bias": {"07": 1}})"},
      {"logit_bias", R"({"logit_bias": {"-1": 1}})"},
      {"logit_bias", R"({"logit_bias": {"100": 1}})"},
      {"logit_bias", R"({"logit_bias": {"1": "2"}})"},
      {"logit_bias", R"({"logit_bias": {"1": 1e39}})"},
      {"stop", R"({"stop": 5})"},
      {"stop", R"({"stop": [""]})"},
      {"stop", R"({"stop": ["a", 1]})"},
      {"stop_token_ids", R"({"stop_token_ids": 5})"},
      {"stop_token_ids", R"({"stop_token_ids": [100]})"},
      {"logprobs", R"({"logprobs": true})"},
      {"n", R"({"n": 0})"},
      {"seed", R"({"seed": -1})"},
      {"ignore_eos", R"({"ignore_eos": 1})"},
      {"tempreature", R"({"tempreature": 1})"},
      {"model", R"({"model": "m"})"}};
  for (const auto& [field, line] : lines) {
    SCOPED_TRACE(line);
    try {
      parse(line);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_EQ(error.field(), field);
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos);
    }
  }
  try {
    parse(R"({"tempreature": 1})");
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("temperature?"), std::string::npos) << error.what();
  }
}

ModelFolder folder_with(const std::string& generation_config) {
  ModelFolder folder;
  folder.path = "/m";
  folder.config.eos_token_ids = {2};
  folder.generation_config = parse_json(generation_config, "line").as_object();
  return folder;
}

TEST(GenerationConfig, EverySettingIsHonoured) {
  const ModelFolder folder = folder_with(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01,
          "typical_p": 0.9, "repetition_penalty": 1.05, "max_new_tokens": 7, "min_new_tokens": 3,
          "eos_token_id": [5, 6], "num_beams": 1, "suppress_tokens": []})");
  const SamplingParams p = model_sampling(folder);
  EXPECT_EQ(p.temperature, 0.6);
  EXPECT_EQ(p.top_k, 20u);
  EXPECT_EQ(p.top_p, 0.95);
  EXPECT_EQ(p.min_p, 0.01);
  EXPECT_EQ(p.typical_p, 0.9);
  EXPECT_EQ(p.repetition_penalty, 1.05);
  EXPECT_EQ(p.max_tokens, 7u);
  EXPECT_EQ(p.min_tokens, 3u);
  EXPECT_EQ(end_ids(folder), (std::vector<int32_t>{5, 6}));
  EXPECT_TRUE(settings_left_out(folder).empty());
}

TEST(GenerationConfig, AModelThatDoesNotSampleIsGreedyButKeepsItsFilters) {
  const ModelFolder folder =
      folder_with(R"({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 9})");
  EXPECT_EQ(model_sampling(folder).temperature, 0);
  EXPECT_EQ(model_sampling(folder).top_p, 0.9);
  EXPECT_EQ(end_ids(folder), std::vector<int32_t>{9});
  EXPECT_EQ(model_sampling(folder_with(R"({"do_sample": true})")).temperature, 1);
  EXPECT_EQ(end_ids(folder_with("{}")), std::vector<int32_t>{2});
  EXPECT_EQ(model_sampling(ModelFolder{}).max_tokens, 256u);
}

TEST(GenerationConfig, WhatIsLeftOutIsNamedAndWhatIsWrongIsRefused) {
  EXPECT_EQ(
      settings_left_out(folder_with(R"({"no_repeat_ngram_size": 3, "num_beams": 4,
                                             "suppress_tokens": [1, 2], "guidance_scale": null})")),
      (std::vector<std::string>{"no_repeat_ngram_size 3", "num_beams 4", "suppress_tokens [1,2]"}));
  for (const char* text :
       {R"({"top_k": 1.5})", R"({"temperature": -1})", R"({"temperature": "hot"})",
        R"({"do_sample": 1})", R"({"max_new_tokens": -1})", R"({"min_new_tokens": 99999999})"}) {
    EXPECT_THROW(model_sampling(folder_with(text)), Error) << text;
  }
  EXPECT_THROW(end_ids(folder_with(R"({"eos_token_id": "</s>"})")), Error);
}

}  // namespace
}  // namespace headrace::engine
