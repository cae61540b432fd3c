// The visible table of model families. A family is a row: how its config.json is read and what its
// tensors are called. Adding one: docs/adding_a_model.md.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "models/config.h"

namespace headrace::models {

struct Family {
  const char* name;          // "llama": also `synth --family`
  const char* architecture;  // "LlamaForCausalLM"
  const char* model_type;    // "llama"
  void (*read)(const json::object& config,
               ModelConfig& out);  // what differs from the common fields
  // The config.json of a model of this family with about `weight_bytes` of weights, for `synth`.
  json::object (*example)();
};

std::span<const Family> families();
const Family* find_family(std::string_view name_or_architecture);

}  // namespace headrace::models
