// The arithmetic of a decoder block as small functions over the buffers of a pass. Private to this
// folder: the engine includes model.h and never looks inside Activations.
#pragma once

#include <array>
#include <vector>

#include "models/model.h"

namespace headrace::models {

// M rows, O output rows, E experts, R experts per token. Every buffer is dense. A narrowed buffer
// is the bfloat16 input of a product and exists only where the weights are bfloat16.
struct Activations {
  uint32_t rows_max = 0, outputs_max = 0;
  float* x = nullptr;          // [M, hidden] the residual stream
  float* h = nullptr;          // [M, hidden] normed input of a block, then the block's output
  float* q = nullptr;          // [M, heads, head_dim]
  float* k = nullptr;          // [M, kv_heads, head_dim]
  float* v = nullptr;          // [M, kv_heads, head_dim]
  float* mixed = nullptr;      // [M, heads, head_dim] what attention gathered
  float* gate = nullptr;       // [M, intermediate], then silu(gate) * up
  float* up = nullptr;         // [M, intermediate]
  uint16_t* narrow = nullptr;  // [M, even(the widest input of a product)]

  float* router_logits = nullptr;   // [M, E]
  uint32_t* expert = nullptr;       // [M, R] in rank order
  float* expert_weight = nullptr;   // [M, R]
  float* part = nullptr;            // [M, R, hidden] experts' outputs
  uint32_t* chosen_row = nullptr;   // [M] rows that chose the expert at hand
  uint32_t* chosen_slot = nullptr;  // [M] their place in `part`: row * R + rank
  float* gathered = nullptr;        // [M, hidden] their inputs, then their outputs

  float* head_in = nullptr;         // [O, hidden]
  uint16_t* head_narrow = nullptr;  // [O, even(hidden)]
  float* logits = nullptr;          // [O, vocabulary]

  ObjectId object = kNone;  // the object being walked and the chunk that must come next
  uint32_t next_chunk = 0;
};

// The small tensors of one layer; null where the model has none.
struct SmallTensors {
  const float* input_norm = nullptr;  // [hidden]
  const float* post_norm = nullptr;   // [hidden]
  const float* q_bias = nullptr;      // [heads * head_dim]
  const float* k_bias = nullptr;      // [kv_heads * head_dim]
  const float* v_bias = nullptr;      // [kv_heads * head_dim]
  const float* o_bias = nullptr;      // [hidden]
  const float* q_norm = nullptr;      // [head_dim]
  const float* k_norm = nullptr;      // [head_dim]
  const float* gate_bias = nullptr;   // [intermediate]
  const float* up_bias = nullptr;     // [intermediate]
  const float* down_bias = nullptr;   // [hidden]
  const std::byte* router = nullptr;  // panels of [E, hidden]
};

struct Tables {                           // what the decoder resolved once
  std::vector<SmallTensors> small;        // by layer
  const float* final_norm = nullptr;      // [hidden]
  std::vector<float> inv_freq;            // [head_dim / 2]
  uint64_t embedding_rows_per_chunk = 0;  // of every chunk but the last
  Bytes kv_layer_bytes = 0;               // of one layer in a KV block: direct I/O moves it
};

struct Call {  // what every function below reads
  Context& c;
  Activations& a;
  const Pass& pass;
  const ModelConfig& config;
  const Tables& tables;
  uint32_t layer;  // kNone in the head

  uint64_t rows() const { return pass.tokens.size(); }
  const SmallTensors& small() const { return tables.small[layer]; }
  Bytes kv_offset() const {
    return pass.kv_offsets.empty() ? layer * tables.kv_layer_bytes : pass.kv_offsets[layer];
  }
};

// One object's product: y[p] = x * part p, with what comes before its first and after its last
// chunk.
struct Product {
  void (*begin)(const Call&) = nullptr;
  void (*end)(const Call&) = nullptr;
  const void* x = nullptr;  // [m, k] float32, or [m, even(k)] bfloat16
  uint64_t m = 0;
  std::array<float*, 3> y{};  // by part: [m, rows of the part]
};

// attention.cpp
DType kv_type_of(const ModelConfig& config);
std::vector<float> rotary_frequencies(const ModelConfig& config);
Product qkv_product(const Call& call);
Product o_product(const Call& call);
// mlp.cpp
Product gate_up_product(const Call& call);
Product down_product(const Call& call);
void activate(const Call& call, uint64_t rows);  // gate = silu(gate) * up, with their biases
// embedding.cpp
void look_up(const Call& call, const ObjectLayout& embedding, uint32_t chunk,
             const std::byte* data);
Product head_product(const Call& call);
// moe.cpp
void choose_experts(const Call& call);
void run_expert(const Call& call, const ObjectLayout& object, uint32_t expert,
                std::span<const std::byte* const> data);
void combine_experts(const Call& call);
// model.cpp
void multiply(const Call& call, const ObjectLayout& object, const Piece& piece,
              const std::byte* chunk, const Product& product);
// What a product reads: `in` itself, or its bfloat16 copy in `narrow` where the weights are.
const void* input_of(const Call& call, const float* in, const uint16_t* narrow);
void narrow_input(const Call& call, const float* in, uint64_t rows, uint64_t k, uint16_t* narrow);
// The normed residual stream as every half of a block begins with it: into a.h, and narrowed.
void norm_input(const Call& call, const float* weight);  // weight [hidden]

}  // namespace headrace::models
