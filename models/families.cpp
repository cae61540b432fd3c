#include "models/families.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "models/fields.h"

namespace headrace::models {

namespace {

constexpr uint64_t kWindowMax = (uint64_t{1} << 31) - 1;
constexpr uint64_t kExpertsMax = 1024;

// Which layers slide, as transformers 5 writes it; empty when the field is absent.
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

// These families have one kind of attention; a list that says otherwise is another model's.
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

void read_llama(const Fields& fields, ModelConfig& out) {
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.mlp_bias = fields.flag("mlp_bias").value_or(false);
  expect_uniform_layers(fields, out.layers, false);
}

void refuse_biases(const Fields& fields) {
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (fields.flag(name).value_or(false)) fields.unsupported(name, "false");
  }
}

void read_mistral(const Fields& fields, ModelConfig& out) {
  refuse_biases(fields);
  out.sliding_window = read_window(fields);
  expect_uniform_layers(fields, out.layers, out.sliding_window != 0);
}

// Layers from max_window_layers on slide, if use_sliding_window says so at all.
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

void read_qwen2(const Fields& fields, ModelConfig& out) {
  out.qkv_bias = true;  // not a field: the architecture has them
  read_qwen_window(fields, out);
}

void read_qwen3(const Fields& fields, ModelConfig& out) {
  constexpr uint32_t kDefaultHeadDim = 128;  // unlike the others, not derived from hidden_size
  if (fields.find("head_dim") == nullptr) out.head_dim = kDefaultHeadDim;
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.qk_norm = true;
  read_qwen_window(fields, out);
}

void read_mixtral(const Fields& fields, ModelConfig& out) {
  refuse_biases(fields);
  out.sliding_window = read_window(fields);
  expect_uniform_layers(fields, out.layers, out.sliding_window != 0);
  out.experts = static_cast<uint32_t>(fields.required_count("num_local_experts", {1, kExpertsMax}));
  out.experts_per_token =
      static_cast<uint32_t>(fields.required_count("num_experts_per_tok", {1, out.experts}));
  out.renormalise_routing = true;
  out.rms_norm_eps = 1e-5f;
  out.rope_theta = 1e6;
}

// Shapes of well-known small models; `synth` changes sizes and the number of layers.
json::object common_example(const char* architecture, const char* model_type) {
  return {{"architectures", json::array{architecture}},
          {"model_type", model_type},
          {"hidden_act", "silu"},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"initializer_range", 0.02},
          {"use_cache", true}};
}

struct ExampleShape {
  uint64_t hidden, intermediate, layers, heads, kv_heads, vocab, positions;
};

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

json::object example_llama() {
  json::object config =
      with_shape(common_example("LlamaForCausalLM", "llama"), {.hidden = 2048,
                                                               .intermediate = 8192,
                                                               .layers = 16,
                                                               .heads = 32,
                                                               .kv_heads = 8,
                                                               .vocab = 32000,
                                                               .positions = 131072});
  config["rms_norm_eps"] = 1e-5;
  config["rope_theta"] = 500000.0;
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  config["attention_bias"] = false;
  config["mlp_bias"] = false;
  config["tie_word_embeddings"] = false;
  return config;
}

json::object example_mistral() {
  json::object config =
      with_shape(common_example("MistralForCausalLM", "mistral"), {.hidden = 4096,
                                                                   .intermediate = 14336,
                                                                   .layers = 32,
                                                                   .heads = 32,
                                                                   .kv_heads = 8,
                                                                   .vocab = 32000,
                                                                   .positions = 32768});
  config["rms_norm_eps"] = 1e-5;
  config["rope_theta"] = 10000.0;
  config["sliding_window"] = 4096;
  config["tie_word_embeddings"] = false;
  return config;
}

json::object example_qwen2() {
  json::object config =
      with_shape(common_example("Qwen2ForCausalLM", "qwen2"), {.hidden = 1536,
                                                               .intermediate = 8960,
                                                               .layers = 28,
                                                               .heads = 12,
                                                               .kv_heads = 2,
                                                               .vocab = 32000,
                                                               .positions = 32768});
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 1000000.0;
  config["use_sliding_window"] = false;
  config["sliding_window"] = 4096;
  config["max_window_layers"] = 28;
  config["tie_word_embeddings"] = true;
  return config;
}

json::object example_qwen3() {
  json::object config =
      with_shape(common_example("Qwen3ForCausalLM", "qwen3"), {.hidden = 2048,
                                                               .intermediate = 6144,
                                                               .layers = 28,
                                                               .heads = 16,
                                                               .kv_heads = 8,
                                                               .vocab = 32000,
                                                               .positions = 40960});
  config["head_dim"] = 128;
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 1000000.0;
  config["attention_bias"] = false;
  config["use_sliding_window"] = false;
  config["tie_word_embeddings"] = true;
  return config;
}

json::object example_mixtral() {
  json::object config =
      with_shape(common_example("MixtralForCausalLM", "mixtral"), {.hidden = 1024,
                                                                   .intermediate = 3584,
                                                                   .layers = 16,
                                                                   .heads = 16,
                                                                   .kv_heads = 4,
                                                                   .vocab = 32000,
                                                                   .positions = 32768});
  config["num_local_experts"] = 8;
  config["num_experts_per_tok"] = 2;
  config["rms_norm_eps"] = 1e-5;
  config["rope_theta"] = 1000000.0;
  config["sliding_window"] = nullptr;
  config["tie_word_embeddings"] = false;
  return config;
}

constexpr ExpertNames kDense = {};

const std::array kFamilies = {
    Family{"llama", "LlamaForCausalLM", "llama", kDense, read_llama, example_llama},
    Family{"mistral", "MistralForCausalLM", "mistral", kDense, read_mistral, example_mistral},
    Family{"qwen2", "Qwen2ForCausalLM", "qwen2", kDense, read_qwen2, example_qwen2},
    Family{"qwen3", "Qwen3ForCausalLM", "qwen3", kDense, read_qwen3, example_qwen3},
    Family{"mixtral",
           "MixtralForCausalLM",
           "mixtral",
           {.router = "block_sparse_moe.gate.weight",
            .experts = "block_sparse_moe.experts",
            .gate = "w1",
            .up = "w3",
            .down = "w2"},
           read_mixtral,
           example_mixtral},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* find_family(std::string_view name_or_architecture) {
  for (const Family& family : kFamilies) {
    if (name_or_architecture == family.name || name_or_architecture == family.architecture) {
      return &family;
    }
  }
  return nullptr;
}

}  // namespace headrace::models
