// Layer norms with biases and a feed-forward that is not gated: GPT-2, OPT, StarCoder2.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

void use_layer_norms(ModelConfig& out) {
  out.block.norm = NormKind::kLayer;
  out.block.gated = false;
  out.norm_eps = 1e-5f;
}

void read_starcoder2(const Fields& fields, ModelConfig& out) {
  use_layer_norms(out);
  out.block.activation = kernels::Activation::kGeluTanh;
  if (fields.find("num_key_value_heads") == nullptr) {
    fields.malformed("num_key_value_heads", "it is required");
  }
  out.qkv_bias = out.o_bias = out.mlp_bias = fields.flag("use_bias").value_or(true);
  read_window_of_all(fields, out);
}

json::object example_starcoder2() {
  json::object config =
      with_shape(common_example("Starcoder2ForCausalLM", "starcoder2"), {.hidden = 3072,
                                                                         .intermediate = 12288,
                                                                         .layers = 30,
                                                                         .heads = 24,
                                                                         .kv_heads = 2,
                                                                         .vocab = 49152,
                                                                         .positions = 16384});
  config["hidden_act"] = "gelu_pytorch_tanh";
  config["norm_epsilon"] = 1e-5;
  config["rope_theta"] = 999999.4420358813;
  config["sliding_window"] = 4096;
  config["use_bias"] = true;
  return config;
}

void read_gpt2(const Fields& fields, ModelConfig& out) {
  use_layer_norms(out);
  out.block.activation = kernels::Activation::kGeluTanh;
  out.qkv_bias = out.o_bias = out.mlp_bias = true;
  out.positions = Positions::kLearned;
  if (!fields.flag("scale_attn_weights").value_or(true)) out.attention_scalar = 1;
  out.attention_scaled_by_layer = fields.flag("scale_attn_by_inverse_layer_idx").value_or(false);
}

json::object example_gpt2() {
  json::object config = common_example("GPT2LMHeadModel", "gpt2");
  config["n_embd"] = 768;
  config["n_layer"] = 12;
  config["n_head"] = 12;
  config["n_positions"] = 1024;
  config["vocab_size"] = 50257;
  config["activation_function"] = "gelu_new";
  config["layer_norm_epsilon"] = 1e-5;
  return config;
}

void read_opt(const Fields& fields, ModelConfig& out) {
  constexpr uint32_t kOffset = 2;  // rows that the table of positions begins with
  use_layer_norms(out);
  out.block.activation = kernels::Activation::kRelu;
  out.qkv_bias = out.o_bias = out.mlp_bias = fields.flag("enable_bias").value_or(true);
  out.positions = Positions::kLearned;
  out.position_offset = kOffset;
  if (!fields.flag("layer_norm_elementwise_affine").value_or(true)) {
    fields.unsupported("layer_norm_elementwise_affine", "true");
  }
  const auto projected = fields.count("word_embed_proj_dim", {1, UINT32_MAX});
  if (projected && *projected != out.hidden_size) {
    fields.unsupported("word_embed_proj_dim", "the value of hidden_size");
  }
  const bool before = fields.flag("do_layer_norm_before").value_or(true);
  if (!before) out.block.place = NormPlace::kSum;
  out.block.final_norm = before && !fields.flag("_remove_final_layer_norm").value_or(false);
}

json::object example_opt() {
  json::object config = common_example("OPTForCausalLM", "opt");
  config["hidden_size"] = 768;
  config["ffn_dim"] = 3072;
  config["num_hidden_layers"] = 12;
  config["num_attention_heads"] = 12;
  config["max_position_embeddings"] = 2048;
  config["vocab_size"] = 50272;
  config["activation_function"] = "relu";
  config["do_layer_norm_before"] = true;
  config["pad_token_id"] = 1;
  return config;
}

}  // namespace

const Family kStarcoder2{.name = "starcoder2",
                         .architecture = "Starcoder2ForCausalLM",
                         .model_type = "starcoder2",
                         .fields = {.norm_eps = "norm_epsilon"},
                         .names = {.gate = "mlp.c_fc", .up = nullptr, .down = "mlp.c_proj"},
                         .ties = true,
                         .read = read_starcoder2,
                         .example = example_starcoder2};

const Family kGpt2{.name = "gpt2",
                   .architecture = "GPT2LMHeadModel",
                   .model_type = "gpt2",
                   .fields = {.hidden = "n_embd",
                              .intermediate = "n_inner",
                              .layers = "n_layer",
                              .heads = "n_head",
                              .kv_heads = nullptr,
                              .positions = "n_positions",
                              .activation = "activation_function",
                              .norm_eps = "layer_norm_epsilon",
                              .widening = 4},
                   .names = {.layers = "transformer.h",
                             .embedding = "transformer.wte.weight",
                             .positions = "transformer.wpe.weight",
                             .final_norm = "transformer.ln_f",
                             .attention_norm = "ln_1",
                             .ffn_norm = "ln_2",
                             .qkv = "attn.c_attn",
                             .o = "attn.c_proj",
                             .gate = "mlp.c_fc",
                             .up = nullptr,
                             .down = "mlp.c_proj",
                             .transposed = true},
                   .ties = true,
                   .read = read_gpt2,
                   .example = example_gpt2};

const Family kOpt{.name = "opt",
                  .architecture = "OPTForCausalLM",
                  .model_type = "opt",
                  .fields = {.intermediate = "ffn_dim",
                             .kv_heads = nullptr,
                             .activation = "activation_function",
                             .norm_eps = nullptr},
                  .names = {.layers = "model.decoder.layers",
                            .embedding = "model.decoder.embed_tokens.weight",
                            .positions = "model.decoder.embed_positions.weight",
                            .final_norm = "model.decoder.final_layer_norm",
                            .attention_norm = "self_attn_layer_norm",
                            .ffn_norm = "final_layer_norm",
                            .o = "self_attn.out_proj",
                            .gate = "fc1",
                            .up = nullptr,
                            .down = "fc2"},
                  .ties = true,
                  .read = read_opt,
                  .example = example_opt};

}  // namespace headrace::models
