// Gemma 2 and 3, text: norms that add one to their weights, before and after each half of a block;
// scaled embeddings; layers of two kinds.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

constexpr uint32_t kHeadDim = 256;  // where the field is absent, whatever hidden_size is
constexpr uint32_t kWindow = 4096;
constexpr double kScalar = 256;

void read_gemma(const Fields& fields, ModelConfig& out) {
  out.block.norms_add_one = true;
  out.block.output_norms = true;
  out.block.activation = kernels::Activation::kGeluTanh;
  out.scale_embedding = true;
  if (fields.find("head_dim") == nullptr) out.head_dim = kHeadDim;
  if (fields.find("num_key_value_heads") == nullptr) {
    fields.malformed("num_key_value_heads", "it is required");
  }
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
  out.attention_scalar = fields.find("query_pre_attn_scalar") == nullptr
                             ? kScalar
                             : positive(fields, "query_pre_attn_scalar");
  out.sliding_window =
      static_cast<uint32_t>(fields.count("sliding_window", {1, kWindowMax}).value_or(kWindow));
}

// Where layer_types is absent: all layers slide but every `period`-th.
void slide_but_every(const Fields& fields, uint64_t period, ModelConfig& out) {
  out.layer_slides = read_layer_types(fields, out.layers);
  for (uint32_t i = static_cast<uint32_t>(out.layer_slides.size()); i < out.layers; ++i) {
    out.layer_slides.push_back((i + 1) % period != 0 ? 1 : 0);
  }
}

void read_gemma2(const Fields& fields, ModelConfig& out) {
  read_gemma(fields, out);
  slide_but_every(fields, 2, out);
  out.attention_softcap = read_cap(fields, "attn_logit_softcapping", 50);
  out.logit_softcap = read_cap(fields, "final_logit_softcapping", 30);
}

void read_gemma3(const Fields& fields, ModelConfig& out) {
  read_gemma(fields, out);
  slide_but_every(fields, fields.count("sliding_window_pattern", {1, kWindowMax}).value_or(6), out);
  // transformers reads the cap on scores and does not apply it in this architecture.
  if (read_cap(fields, "attn_logit_softcapping", 0) != 0) {
    fields.unsupported("attn_logit_softcapping", "null");
  }
  out.logit_softcap = read_cap(fields, "final_logit_softcapping", 0);
  out.qk_norm = QkNorm::kHead;
  out.rope.theta = 1e6;
  out.sliding_rope = Rope{};
}

json::object example_gemma2() {
  json::object config =
      with_shape(common_example("Gemma2ForCausalLM", "gemma2"), {.hidden = 2304,
                                                                 .intermediate = 9216,
                                                                 .layers = 26,
                                                                 .heads = 8,
                                                                 .kv_heads = 4,
                                                                 .vocab = 256000,
                                                                 .positions = 8192});
  config["head_dim"] = 256;
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 10000.0;
  config["attention_bias"] = false;
  config["attn_logit_softcapping"] = 50.0;
  config["final_logit_softcapping"] = 30.0;
  config["query_pre_attn_scalar"] = 256;
  config["sliding_window"] = 4096;
  config["pad_token_id"] = 0;
  return config;
}

json::object example_gemma3() {
  json::object config =
      with_shape(common_example("Gemma3ForCausalLM", "gemma3_text"), {.hidden = 1152,
                                                                      .intermediate = 6912,
                                                                      .layers = 26,
                                                                      .heads = 4,
                                                                      .kv_heads = 1,
                                                                      .vocab = 262144,
                                                                      .positions = 32768});
  config["head_dim"] = 256;
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 1000000.0;
  config["rope_local_base_freq"] = 10000.0;
  config["attention_bias"] = false;
  config["query_pre_attn_scalar"] = 256;
  config["sliding_window"] = 512;
  config["sliding_window_pattern"] = 6;
  config["pad_token_id"] = 0;
  return config;
}

constexpr TensorNames kNames{.ffn_norm = "pre_feedforward_layernorm",
                             .attention_out_norm = "post_attention_layernorm",
                             .ffn_out_norm = "post_feedforward_layernorm"};

}  // namespace

const Family kGemma2{.name = "gemma2",
                     .architecture = "Gemma2ForCausalLM",
                     .model_type = "gemma2",
                     .fields = {.activation = "hidden_activation"},
                     .names = kNames,
                     .ties = true,
                     .read = read_gemma2,
                     .example = example_gemma2};

const Family kGemma3{.name = "gemma3",
                     .architecture = "Gemma3ForCausalLM",
                     .model_type = "gemma3_text",
                     .fields = {.activation = "hidden_activation"},
                     .names = kNames,
                     .ties = true,
                     .read = read_gemma3,
                     .example = example_gemma3};

}  // namespace headrace::models
