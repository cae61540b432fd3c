// Llama and what differs from it in fields alone.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

void read_llama(const Fields& fields, ModelConfig& out) {
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.mlp_bias = fields.flag("mlp_bias").value_or(false);
  expect_uniform_layers(fields, out.layers, false);
}

void read_mistral(const Fields& fields, ModelConfig& out) {
  refuse_set(fields, {"attention_bias", "mlp_bias"});
  read_window_of_all(fields, out);
}

void read_qwen2(const Fields& fields, ModelConfig& out) {
  out.qkv_bias = true;  // not a field: the architecture has them
  read_qwen_window(fields, out);
}

void read_qwen3(const Fields& fields, ModelConfig& out) {
  constexpr uint32_t kDefaultHeadDim = 128;  // unlike the others, not derived from hidden_size
  if (fields.find("head_dim") == nullptr) out.head_dim = kDefaultHeadDim;
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.qk_norm = QkNorm::kHead;
  read_qwen_window(fields, out);
}

void read_mixtral(const Fields& fields, ModelConfig& out) {
  refuse_set(fields, {"attention_bias", "mlp_bias"});
  read_window_of_all(fields, out);
  out.experts = static_cast<uint32_t>(fields.required_count("num_local_experts", {1, kExpertsMax}));
  out.experts_per_token =
      static_cast<uint32_t>(fields.required_count("num_experts_per_tok", {1, out.experts}));
  out.expert_size = out.intermediate_size;
  out.norm_eps = 1e-5f;
  out.rope.theta = 1e6;
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

}  // namespace

const Family kLlama{.name = "llama",
                    .architecture = "LlamaForCausalLM",
                    .model_type = "llama",
                    .read = read_llama,
                    .example = example_llama};
const Family kMistral{.name = "mistral",
                      .architecture = "MistralForCausalLM",
                      .model_type = "mistral",
                      .read = read_mistral,
                      .example = example_mistral};
const Family kQwen2{.name = "qwen2",
                    .architecture = "Qwen2ForCausalLM",
                    .model_type = "qwen2",
                    .read = read_qwen2,
                    .example = example_qwen2};
const Family kQwen3{.name = "qwen3",
                    .architecture = "Qwen3ForCausalLM",
                    .model_type = "qwen3",
                    .read = read_qwen3,
                    .example = example_qwen3};
const Family kMixtral{.name = "mixtral",
                      .architecture = "MixtralForCausalLM",
                      .model_type = "mixtral",
                      .names = {.experts = {.router = "block_sparse_moe.gate.weight",
                                            .experts = "block_sparse_moe.experts",
                                            .gate = "w1",
                                            .up = "w3",
                                            .down = "w2"}},
                      .read = read_mixtral,
                      .example = example_mixtral};

}  // namespace headrace::models
