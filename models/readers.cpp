#include "models/readers.h"

#include <algorithm>

#include "core/error.h"

namespace headrace::models {

std::vector<uint8_t> read_layer_types(const Fields& fields, uint32_t layers) {
  const json::value* value = fields.find("layer_types");
  if (value == nullptr) return {};
  if (!value->is_array() || value->get_array().size() != layers) {
    fields.malformed("layer_types", "it must list one type for every layer");
  }
  std::vector<uint8_t> slides;
  for (const json::value& item : value->get_array()) {
    if (!item.is_string()) fields.malformed("layer_types", "a type must be a string");
    const bool sliding = item.get_string() == "sliding_attention";
    if (!sliding && item.get_string() != "full_attention") {
      fields.unsupported("layer_types", "\"full_attention\", \"sliding_attention\"");
    }
    slides.push_back(sliding ? 1 : 0);
  }
  return slides;
}

void expect_uniform_layers(const Fields& fields, uint32_t layers, bool sliding) {
  for (const uint8_t slides : read_layer_types(fields, layers)) {
    if ((slides != 0) != sliding) {
      fields.unsupported("layer_types",
                         sliding ? "\"sliding_attention\" in every layer of this architecture"
                                 : "\"full_attention\" in every layer of this architecture");
    }
  }
}

uint32_t read_window(const Fields& fields) {
  return static_cast<uint32_t>(fields.count("sliding_window", {1, kWindowMax}).value_or(0));
}

void read_window_of_all(const Fields& fields, ModelConfig& out) {
  out.sliding_window = read_window(fields);
  expect_uniform_layers(fields, out.layers, out.sliding_window != 0);
}

void read_qwen_window(const Fields& fields, ModelConfig& out) {
  constexpr uint64_t kDefaultWindow = 4096, kDefaultFullLayers = 28;  // of transformers
  std::vector<uint8_t> slides = read_layer_types(fields, out.layers);
  const bool use = fields.flag("use_sliding_window").value_or(false);
  const uint64_t full =
      fields.count("max_window_layers", {0, kWindowMax}).value_or(kDefaultFullLayers);
  if (slides.empty()) {
    for (uint32_t i = 0; i < out.layers; ++i) slides.push_back(use && i >= full ? 1 : 0);
  }
  if (std::find(slides.begin(), slides.end(), 1) == slides.end()) return;
  if (!use) fields.malformed("use_sliding_window", "layer_types has sliding layers");
  out.sliding_window = static_cast<uint32_t>(
      fields.count("sliding_window", {1, kWindowMax}).value_or(kDefaultWindow));
  out.layer_slides = std::move(slides);
}

void refuse_set(const Fields& fields, std::initializer_list<const char*> flags) {
  for (const char* name : flags) {
    if (fields.flag(name).value_or(false)) fields.unsupported(name, "false");
  }
}

void expect_number(const Fields& fields, const char* name, double value) {
  const std::optional<double> x = fields.number(name);
  if (x && *x != value) fields.unsupported(name, value == 1.0 ? "1" : "another value");
}

double positive(const Fields& fields, const char* name) {
  const double x = fields.required_number(name);
  if (!(x > 0)) fields.malformed(name, "it must be greater than 0");
  return x;
}

// Null says that there is no cap; an absent field that the architecture's own holds.
float read_cap(const Fields& fields, const char* name, float otherwise) {
  if (!fields.contains(name)) return otherwise;
  return fields.find(name) == nullptr ? 0.0f : static_cast<float>(positive(fields, name));
}

json::object common_example(const char* architecture, const char* model_type) {
  return {{"architectures", json::array{architecture}},
          {"model_type", model_type},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"initializer_range", 0.02},
          {"use_cache", true}};
}

json::object with_shape(json::object config, const ExampleShape& shape) {
  config["hidden_size"] = shape.hidden;
  config["intermediate_size"] = shape.intermediate;
  config["num_hidden_layers"] = shape.layers;
  config["num_attention_heads"] = shape.heads;
  config["num_key_value_heads"] = shape.kv_heads;
  config["vocab_size"] = shape.vocab;
  config["max_position_embeddings"] = shape.positions;
  return config;
}

}  // namespace headrace::models
