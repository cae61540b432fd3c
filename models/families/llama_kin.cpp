// Kin of Llama: Phi-3 stores fused projections, OLMo 2 norms what each half of a block adds.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

void read_phi3(const Fields& fields, ModelConfig& out) {
  out.norm_eps = 1e-5f;
  read_window_of_all(fields, out);
}

json::object example_phi3() {
  json::object config = with_shape(common_example("Phi3ForCausalLM", "phi3"), {.hidden = 3072,
                                                                               .intermediate = 8192,
                                                                               .layers = 32,
                                                                               .heads = 32,
                                                                               .kv_heads = 32,
                                                                               .vocab = 32064,
                                                                               .positions = 4096});
  config["original_max_position_embeddings"] = 4096;
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = 1e-5;
  config["rope_theta"] = 10000.0;
  config["sliding_window"] = 2047;
  config["pad_token_id"] = 0;
  config["tie_word_embeddings"] = false;
  return config;
}

void read_olmo2(const Fields& fields, ModelConfig& out) {
  out.norm_eps = 1e-5f;
  out.block.place = NormPlace::kNone;
  out.block.output_norms = true;
  out.qk_norm = QkNorm::kWhole;
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(false);
}

json::object example_olmo2() {
  json::object config =
      with_shape(common_example("Olmo2ForCausalLM", "olmo2"), {.hidden = 2048,
                                                               .intermediate = 8192,
                                                               .layers = 16,
                                                               .heads = 16,
                                                               .kv_heads = 16,
                                                               .vocab = 100352,
                                                               .positions = 4096});
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = 1e-6;
  config["rope_theta"] = 500000.0;
  config["attention_bias"] = false;
  config["tie_word_embeddings"] = false;
  return config;
}

}  // namespace

const Family kPhi3{.name = "phi3",
                   .architecture = "Phi3ForCausalLM",
                   .model_type = "phi3",
                   .fields = {.rotary_share = "partial_rotary_factor", .yarn_is_longrope = true},
                   .names = {.qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj"},
                   .read = read_phi3,
                   .example = example_phi3};

const Family kOlmo2{.name = "olmo2",
                    .architecture = "Olmo2ForCausalLM",
                    .model_type = "olmo2",
                    .names = {.attention_out_norm = "post_attention_layernorm",
                              .ffn_out_norm = "post_feedforward_layernorm"},
                    .read = read_olmo2,
                    .example = example_olmo2};

}  // namespace headrace::models
