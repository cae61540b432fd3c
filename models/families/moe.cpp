// Mixtures in which some layers are dense: Qwen2-MoE, with an expert that every row takes, and
// Qwen3-MoE.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

// A layer is dense where mlp_only_layers names it, and where its number is no multiple of
// decoder_sparse_step.
void read_layer_experts(const Fields& fields, ModelConfig& out) {
  const uint64_t step = fields.count("decoder_sparse_step", {1, kWindowMax}).value_or(1);
  out.layer_experts.resize(out.layers);
  for (uint32_t i = 0; i < out.layers; ++i) out.layer_experts[i] = (i + 1) % step == 0 ? 1 : 0;
  const json::value* dense = fields.find("mlp_only_layers");
  if (dense == nullptr) return;
  if (!dense->is_array()) fields.malformed("mlp_only_layers", "it must be a list of layers");
  for (const json::value& item : dense->get_array()) {
    if (!item.is_int64() || item.get_int64() < 0) {
      fields.malformed("mlp_only_layers", "a layer must be a whole number from 0");
    }
    if (item.get_int64() < int64_t{out.layers}) {
      out.layer_experts[static_cast<size_t>(item.get_int64())] = 0;
    }
  }
}

void read_mixture(const Fields& fields, ModelConfig& out) {
  const char* experts = fields.contains("num_experts") ? "num_experts" : "num_local_experts";
  out.experts = static_cast<uint32_t>(fields.required_count(experts, {1, kExpertsMax}));
  out.experts_per_token =
      static_cast<uint32_t>(fields.required_count("num_experts_per_tok", {1, out.experts}));
  out.expert_size = fields.required_count("moe_intermediate_size", {1, UINT32_MAX / 2});
  out.renormalise_routing = fields.flag("norm_topk_prob").value_or(false);
  read_layer_experts(fields, out);
}

void read_qwen2_moe(const Fields& fields, ModelConfig& out) {
  constexpr uint64_t kWindow = 4096, kFullLayers = 28;  // of transformers
  read_mixture(fields, out);
  out.shared_size = fields.required_count("shared_expert_intermediate_size", {1, UINT32_MAX / 2});
  out.qkv_bias = fields.flag("qkv_bias").value_or(true);
  const bool use = fields.flag("use_sliding_window").value_or(false);
  const uint64_t most = fields.count("max_window_layers", {0, kWindowMax}).value_or(kFullLayers);
  out.layer_slides = read_layer_types(fields, out.layers);
  for (uint32_t i = static_cast<uint32_t>(out.layer_slides.size()); i < out.layers; ++i) {
    out.layer_slides.push_back(use && (i + 1) % 2 != 0 && i < most ? 1 : 0);
  }
  const uint64_t window = fields.count("sliding_window", {0, kWindowMax}).value_or(kWindow);
  bool slides = false;
  for (const uint8_t layer : out.layer_slides) slides = slides || layer != 0;
  if (!slides) return;
  if (!use) fields.malformed("use_sliding_window", "layer_types has sliding layers");
  if (window == 0) fields.malformed("sliding_window", "it must be at least 1");
  out.sliding_window = static_cast<uint32_t>(window);
}

void read_qwen3_moe(const Fields& fields, ModelConfig& out) {
  read_mixture(fields, out);
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.qk_norm = QkNorm::kHead;
  if (fields.flag("use_sliding_window").value_or(false)) out.sliding_window = read_window(fields);
}

json::object example_qwen2_moe() {
  json::object config =
      with_shape(common_example("Qwen2MoeForCausalLM", "qwen2_moe"), {.hidden = 2048,
                                                                      .intermediate = 5632,
                                                                      .layers = 24,
                                                                      .heads = 16,
                                                                      .kv_heads = 16,
                                                                      .vocab = 151936,
                                                                      .positions = 8192});
  config["hidden_act"] = "silu";
  config["moe_intermediate_size"] = 1408;
  config["shared_expert_intermediate_size"] = 5632;
  config["num_experts"] = 60;
  config["num_experts_per_tok"] = 4;
  config["norm_topk_prob"] = false;
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = json::array{};
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 1000000.0;
  config["use_sliding_window"] = false;
  config["sliding_window"] = 32768;
  config["max_window_layers"] = 21;
  config["tie_word_embeddings"] = false;
  return config;
}

json::object example_qwen3_moe() {
  json::object config =
      with_shape(common_example("Qwen3MoeForCausalLM", "qwen3_moe"), {.hidden = 2048,
                                                                      .intermediate = 6144,
                                                                      .layers = 48,
                                                                      .heads = 32,
                                                                      .kv_heads = 4,
                                                                      .vocab = 151936,
                                                                      .positions = 40960});
  config["head_dim"] = 128;
  config["hidden_act"] = "silu";
  config["moe_intermediate_size"] = 768;
  config["num_experts"] = 128;
  config["num_experts_per_tok"] = 8;
  config["norm_topk_prob"] = true;
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = json::array{};
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 1000000.0;
  config["attention_bias"] = false;
  config["use_sliding_window"] = false;
  config["sliding_window"] = nullptr;
  config["tie_word_embeddings"] = false;
  return config;
}

constexpr ExpertNames kExperts{.router = "mlp.gate.weight",
                               .experts = "mlp.experts",
                               .gate = "gate_proj",
                               .up = "up_proj",
                               .down = "down_proj",
                               .shared = "mlp.shared_expert",
                               .shared_gate = "mlp.shared_expert_gate.weight"};

}  // namespace

const Family kQwen2Moe{.name = "qwen2_moe",
                       .architecture = "Qwen2MoeForCausalLM",
                       .model_type = "qwen2_moe",
                       .names = {.experts = kExperts},
                       .read = read_qwen2_moe,
                       .example = example_qwen2_moe};

const Family kQwen3Moe{.name = "qwen3_moe",
                       .architecture = "Qwen3MoeForCausalLM",
                       .model_type = "qwen3_moe",
                       .names = {.experts = kExperts},
                       .read = read_qwen3_moe,
                       .example = example_qwen3_moe};

}  // namespace headrace::models
