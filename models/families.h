// The visible table of model families. A family is a row: how its config.json is read and what its
// experts' tensors are called; the names of all other tensors are common to the families. Adding
// one: docs/adding_a_model.md.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "models/config.h"

namespace headrace::models {

class Fields;

struct ExpertNames {  // under "model.layers.N."; all null in a dense family
  const char* router;
  const char* experts;           // expert E is "<experts>.E."
  const char *gate, *up, *down;  // "w1": the tensor is "<experts>.E.w1.weight"
};

struct Family {
  const char* name;          // "llama": also `synth --family`
  const char* architecture;  // "LlamaForCausalLM"
  const char* model_type;    // "llama"
  ExpertNames experts;
  void (*read)(const Fields& fields, ModelConfig& out);  // what differs from the common fields
  // The config.json of a typical small model of this family, for `synth`, which changes its sizes.
  json::object (*example)();
};

std::span<const Family> families();
const Family* find_family(std::string_view name_or_architecture);

}  // namespace headrace::models
