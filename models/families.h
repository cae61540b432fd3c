// The visible table of model families. A family is a row: what its config.json calls things and how
// it is read, and what its checkpoints call their tensors. Adding one: docs/adding_a_model.md.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "models/config.h"

namespace headrace::models {

class Fields;

// What a config.json calls the sizes that every family has.
struct FieldNames {
  const char* hidden = "hidden_size";
  const char* intermediate = "intermediate_size";
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* kv_heads = "num_key_value_heads";  // null: as many as heads
  const char* positions = "max_position_embeddings";
  const char* activation = "hidden_act";
  const char* norm_eps = "rms_norm_eps";  // null: no field
  const char* theta = "rope_theta";
  const char* rotary_share = nullptr;  // of each head's elements; null: all rotate
  double rotary_share_default = 1;
  bool yarn_is_longrope = false;   // early files' name for it
  uint64_t widening = 0;           // intermediate size in hidden sizes, where the field is absent
  uint64_t positions_default = 0;  // where the field is absent; 0: it is required
};

struct ExpertNames {
  const char* router = nullptr;
  const char* experts = nullptr;  // expert E is "<experts>.E."
  const char *gate = nullptr, *up = nullptr,
             *down = nullptr;         // "w1": the tensor is "<experts>.E.w1.weight"
  const char* shared = nullptr;       // the shared expert, with gate, up and down as above
  const char* shared_gate = nullptr;  // [1, hidden]: what the shared expert is weighed by
};

// Below the layer's prefix unless said; ".weight" and ".bias" are added to what has no ending.
struct TensorNames {
  const char* layers = "model.layers";                  // layer N is "<layers>.N."
  const char* embedding = "model.embed_tokens.weight";  // whole
  const char* positions = nullptr;                      // whole; Positions::kLearned
  const char* final_norm = "model.norm";                // whole
  const char* head = "lm_head.weight";                  // whole
  const char* head_also = "";                           // another name of it
  const char* attention_norm = "input_layernorm";       // of NormPlace
  const char* ffn_norm = "post_attention_layernorm";    // of NormPlace
  const char* attention_out_norm = nullptr;             // of Block::output_norms
  const char* ffn_out_norm = nullptr;
  const char *q = "self_attn.q_proj", *k = "self_attn.k_proj", *v = "self_attn.v_proj";
  const char* qkv = nullptr;  // where q, k and v are one tensor
  // Of a fused tensor: for each key-value head its queries, its key and its value; else all
  // queries, then all keys, then all values.
  bool qkv_by_group = false;
  const char* o = "self_attn.o_proj";
  const char *q_norm = "self_attn.q_norm", *k_norm = "self_attn.k_norm";
  const char *gate = "mlp.gate_proj", *up = "mlp.up_proj", *down = "mlp.down_proj";
  const char* gate_up = nullptr;  // where gate and up are one tensor, in this order
  bool transposed = false;        // the layers' matrices are stored [inputs, outputs]
  ExpertNames experts;
};

struct Family {
  const char* name;          // "llama": also `synth --family`
  const char* architecture;  // "LlamaForCausalLM"
  const char* model_type;    // "llama"
  FieldNames fields;
  TensorNames names;
  bool ties = false;                                     // where tie_word_embeddings is absent
  void (*read)(const Fields& fields, ModelConfig& out);  // what differs from the common fields
  // The config.json of a typical small model of this family, for `synth`, which changes its sizes.
  json::object (*example)();
};

std::span<const Family> families();
std::string family_names();  // "llama, mistral, …"
const Family* find_family(std::string_view name_or_architecture);

}  // namespace headrace::models
