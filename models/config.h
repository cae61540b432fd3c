// A model's shape, read from a Hugging Face config.json. Spellings of transformers 4 and 5 are
// understood (torch_dtype or dtype; rope_theta and rope_scaling, or rope_parameters). A field that
// would change the arithmetic in a way this version does not know is refused by name; so is an
// unknown architecture.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/json.h"
#include "kernels/args.h"

namespace headrace::models {

struct TensorNames;  // families.h

enum class Scaling : uint8_t {
  kNone,
  kLinear,   // all rotations slowed by factor
  kLlama3,   // wavelengths above original / low_freq slowed by factor, those below
             // original / high_freq kept, between them a blend
  kYarn,     // a blend from kept to slowed between two numbers of turns over the original length
  kLongrope  // each rotation slowed by its own factor: of short_factors for requests that end
             // within the original length, else of long_factors
};

// `dynamic` scaling has no entry: it changes nothing up to max_position_embeddings, which is as far
// as a request may go.
struct RopeScaling {
  Scaling kind = Scaling::kNone;
  double factor = 0;
  double low_freq = 0, high_freq = 0;  // kLlama3
  double original_positions = 0;       // all but kLinear
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;                             // kYarn: whole numbers of dimensions
  double attention_factor = 1;                      // on cosines and sines
  std::vector<double> short_factors, long_factors;  // [rotary / 2]
};

struct Rope {
  double theta = 10000.0;
  uint32_t rotary = 0;  // elements of each head that rotate, the first ones; even
  RopeScaling scaling;
};

enum class NormKind : uint8_t { kRms, kLayer };  // kLayer has a bias
enum class NormPlace : uint8_t {
  kInput,  // each half of a block norms what it reads
  kNone,
  kSum  // each half norms the residual stream after adding to it
};
enum class QkNorm : uint8_t { kNone, kHead, kWhole };  // RMS norm of q and k before rope
enum class Positions : uint8_t { kRotary, kLearned };

// How a block is put together. The two halves are attention and feed-forward.
struct Block {
  NormKind norm = NormKind::kRms;
  NormPlace place = NormPlace::kInput;
  bool norms_add_one = false;  // stored weights are what the norm's weight exceeds 1 by
  bool output_norms = false;   // each half norms what it adds
  bool final_norm = true;      // before the head
  bool parallel = false;       // both halves read the same residual stream
  bool one_norm = false;       // parallel: and the same norm of it
  bool gated = true;           // feed-forward: activation(gate) * up, or activation(gate)
  kernels::Activation activation = kernels::Activation::kSilu;
};

struct ModelConfig {
  std::string architecture;            // "LlamaForCausalLM"
  std::string family;                  // row of families.h: "llama"
  const TensorNames* names = nullptr;  // what the checkpoint calls its tensors
  uint64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  uint32_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  uint32_t max_position_embeddings = 0;
  Block block;
  float norm_eps = 1e-6f;
  Positions positions = Positions::kRotary;
  uint32_t position_offset = 0;      // kLearned: row of position 0
  Rope rope;                         // kRotary
  std::optional<Rope> sliding_rope;  // of layers that slide, where it is another one
  bool tie_word_embeddings = false;
  bool scale_embedding = false;  // by sqrt(hidden), rounded to the stored precision
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  double attention_scalar = 0;             // scores are divided by its square root; 0: head_dim
  bool attention_scaled_by_layer = false;  // and by the layer's number, from 1
  float attention_softcap = 0, logit_softcap = 0;  // 0: none
  uint32_t sliding_window = 0;                     // 0: none
  std::vector<uint8_t> layer_slides;               // per layer; empty: all alike
  uint32_t experts = 0, experts_per_token = 0;     // 0: dense
  uint64_t expert_size = 0;                        // intermediate size of an expert
  uint64_t shared_size = 0;            // of the expert that every row takes; 0: there is none
  std::vector<uint8_t> layer_experts;  // per layer: a mixture or dense; empty: all alike
  bool renormalise_routing = true;
  DType dtype = DType::kF32;  // stored precision of the matrices: of the files, else of the config
  int64_t bos_token_id = -1;
  std::vector<int64_t> eos_token_ids;

  bool slides(uint32_t layer) const {
    return sliding_window != 0 && (layer_slides.empty() || layer_slides[layer] != 0);
  }
  bool has_experts(uint32_t layer) const {
    return experts != 0 && (layer_experts.empty() || layer_experts[layer] != 0);
  }
  // Tokens that a text may have: max_position_embeddings, or what the rope's scaling makes of it.
  uint32_t longest_text() const;
  const Rope& rope_of(uint32_t layer) const {
    return sliding_rope && slides(layer) ? *sliding_rope : rope;
  }
};

// `what` names the file in errors. Throws kFormat, kUnsupported.
ModelConfig parse_config(const json::value& value, const std::string& what);
ModelConfig read_config(const std::string& path);  // a config.json, or a folder that holds one

}  // namespace headrace::models
