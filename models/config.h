// A model's shape, read from a Hugging Face config.json. Spellings of transformers 4 and 5 are
// understood (torch_dtype or dtype; rope_theta and rope_scaling, or rope_parameters). A field that
// would change the arithmetic in a way this version does not know is refused by name; so is an
// unknown architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/json.h"

namespace headrace::models {

// Llama 3's stretching of the slow rotations: wavelengths above original_positions / low_freq are
// slowed by `factor`, those below original_positions / high_freq are kept, between them a blend.
struct RopeScaling {
  double factor = 0;  // 0: no scaling
  double low_freq = 0, high_freq = 0;
  double original_positions = 0;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string family;        // row of families.h: "llama"
  uint64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  uint32_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  uint32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // Qwen2; Llama with attention_bias also has o_bias
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;         // Qwen3: RMS norm of every head of q and k before rope
  uint32_t sliding_window = 0;  // 0: none
  std::vector<uint8_t>
      layer_slides;  // per layer, when only some layers slide (Qwen2's max_window_layers)
  uint32_t experts = 0, experts_per_token = 0;  // 0: dense
  bool renormalise_routing = true;
  DType dtype = DType::kF32;  // stored precision of the matrices: of the files, else of the config
  int64_t bos_token_id = -1;
  std::vector<int64_t> eos_token_ids;
};

// `what` names the file in errors. Throws kFormat, kUnsupported.
ModelConfig parse_config(const json::value& value, const std::string& what);
ModelConfig read_config(const std::string& path);  // a config.json, or a folder that holds one

}  // namespace headrace::models
