// Attention and feed-forward side by side, and one tensor with q, k and v head by head: GPT-NeoX
// and Falcon.
#include "models/families/all.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

void read_gpt_neox(const Fields& fields, ModelConfig& out) {
  out.block.norm = NormKind::kLayer;
  out.block.gated = false;
  out.block.activation = kernels::Activation::kGelu;
  out.norm_eps = 1e-5f;
  out.block.parallel = fields.flag("use_parallel_residual").value_or(true);
  out.qkv_bias = out.o_bias = fields.flag("attention_bias").value_or(true);
  out.mlp_bias = true;
}

json::object example_gpt_neox() {
  json::object config = common_example("GPTNeoXForCausalLM", "gpt_neox");
  config["hidden_size"] = 2048;
  config["intermediate_size"] = 8192;
  config["num_hidden_layers"] = 24;
  config["num_attention_heads"] = 16;
  config["vocab_size"] = 50304;
  config["max_position_embeddings"] = 2048;
  config["hidden_act"] = "gelu";
  config["layer_norm_eps"] = 1e-5;
  config["rotary_pct"] = 0.25;
  config["rotary_emb_base"] = 10000;
  config["use_parallel_residual"] = true;
  config["tie_word_embeddings"] = false;
  return config;
}

constexpr TensorNames kFalconNames{.layers = "transformer.h",
                                   .embedding = "transformer.word_embeddings.weight",
                                   .final_norm = "transformer.ln_f",
                                   .qkv = "self_attention.query_key_value",
                                   .qkv_by_group = true,
                                   .o = "self_attention.dense",
                                   .gate = "mlp.dense_h_to_4h",
                                   .up = nullptr,
                                   .down = "mlp.dense_4h_to_h"};

constexpr TensorNames with_norms(TensorNames names, const char* attention, const char* ffn) {
  names.attention_norm = attention;
  names.ffn_norm = ffn;
  return names;
}
constexpr TensorNames kTwoNorms = with_norms(kFalconNames, "ln_attn", "ln_mlp");

// Three architectures under one name: keys for every head, for groups of heads, or for all heads.
void read_falcon_shape(const Fields& fields, ModelConfig& out) {
  const bool grouped = fields.flag("new_decoder_architecture").value_or(false);
  const bool parallel = fields.flag("parallel_attn").value_or(true);
  const bool one_key = fields.flag("multi_query").value_or(true);
  if (!grouped) out.kv_heads = one_key ? 1 : out.heads;
  if (grouped && !parallel)
    fields.unsupported("parallel_attn", "true with new_decoder_architecture");
  const uint64_t norms = fields.count("num_ln_in_parallel_attn", {1, 2}).value_or(grouped ? 2 : 1);
  if (norms == 2 && !grouped) {
    fields.unsupported("num_ln_in_parallel_attn", "2 with new_decoder_architecture alone");
  }
  out.block.parallel = parallel;
  out.block.one_norm = parallel && norms == 1;
  if (norms == 2) out.names = &kTwoNorms;
}

void read_falcon(const Fields& fields, ModelConfig& out) {
  out.block.norm = NormKind::kLayer;
  out.block.gated = false;
  out.block.activation = kernels::Activation::kGelu;
  out.norm_eps = 1e-5f;
  if (fields.flag("alibi").value_or(false)) fields.unsupported("alibi", "false");
  if (fields.find("head_dim") != nullptr && out.head_dim * uint64_t{out.heads} != out.hidden_size) {
    fields.unsupported("head_dim", "hidden_size / num_attention_heads");
  }
  out.qkv_bias = out.o_bias = out.mlp_bias = fields.flag("bias").value_or(false);
  read_falcon_shape(fields, out);
}

json::object example_falcon() {
  json::object config = common_example("FalconForCausalLM", "falcon");
  config["hidden_size"] = 2048;
  config["num_hidden_layers"] = 24;
  config["num_attention_heads"] = 32;
  config["vocab_size"] = 65024;
  config["layer_norm_epsilon"] = 1e-5;
  config["alibi"] = false;
  config["bias"] = false;
  config["multi_query"] = true;
  config["new_decoder_architecture"] = false;
  config["parallel_attn"] = true;
  return config;
}

}  // namespace

const Family kGptNeoX{.name = "gpt_neox",
                      .architecture = "GPTNeoXForCausalLM",
                      .model_type = "gpt_neox",
                      .fields = {.kv_heads = nullptr,
                                 .norm_eps = "layer_norm_eps",
                                 .theta = "rotary_emb_base",
                                 .rotary_share = "rotary_pct",
                                 .rotary_share_default = 0.25},
                      .names = {.layers = "gpt_neox.layers",
                                .embedding = "gpt_neox.embed_in.weight",
                                .final_norm = "gpt_neox.final_layer_norm",
                                .head = "embed_out.weight",
                                .head_also = "lm_head.weight",
                                .qkv = "attention.query_key_value",
                                .qkv_by_group = true,
                                .o = "attention.dense",
                                .gate = "mlp.dense_h_to_4h",
                                .up = nullptr,
                                .down = "mlp.dense_4h_to_h"},
                      .read = read_gpt_neox,
                      .example = example_gpt_neox};

const Family kFalcon{.name = "falcon",
                     .architecture = "FalconForCausalLM",
                     .model_type = "falcon",
                     .fields = {.intermediate = "ffn_hidden_size",
                                .kv_heads = "num_kv_heads",
                                .activation = "activation",
                                .norm_eps = "layer_norm_epsilon",
                                .widening = 4,
                                .positions_default = 2048},
                     .names = kFalconNames,
                     .ties = true,
                     .read = read_falcon,
                     .example = example_falcon};

}  // namespace headrace::models
