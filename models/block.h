// The arithmetic of a decoder block as small functions over the buffers of a pass. Private to this
// folder: the engine includes model.h and never looks inside Activations.
#pragma once

#include <array>
#include <vector>

#include "models/model.h"

namespace headrace::models {

// M rows, O output rows, E experts, R experts per token, C rows of several experts together (M
// without experts). After the keys and values of the last layer the rows at hand are the O output
// rows, which lie at the front of buffers of M. Every buffer is dense. A narrowed buffer is the
// bfloat16 input of a product and exists only where the weights are bfloat16.
struct Activations {
  uint32_t rows_max = 0, outputs_max = 0;
  uint64_t chosen_max = 0;     // C
  float* x = nullptr;          // [M, hidden] the residual stream
  float* h = nullptr;          // [M, hidden] normed input of a block, then the block's output
  float* q = nullptr;          // [M, heads, head_dim]
  float* k = nullptr;          // [M, kv_heads, head_dim]
  float* v = nullptr;          // [M, kv_heads, head_dim]
  float* mixed = nullptr;      // [M, heads, head_dim] what attention gathered
  float* gate = nullptr;       // [C, intermediate], then activation(gate) * up
  float* up = nullptr;         // [C, intermediate]; null: the feed-forward is not gated
  float* held = nullptr;       // [M, hidden] parallel: what attention adds, until both halves ran
  uint16_t* narrow = nullptr;  // [C, even(the widest input of a product)]

  float* router_logits = nullptr;   // [M, E]
  uint32_t* expert = nullptr;       // [M, R] in rank order
  float* expert_weight = nullptr;   // [M, R]
  float* part = nullptr;            // [M, R, hidden] experts' outputs
  uint32_t* chosen_row = nullptr;   // [C] rows that chose the experts at hand
  uint32_t* chosen_slot = nullptr;  // [C] their place in `part`: row * R + rank
  float* gathered = nullptr;        // [C, hidden] their inputs, then their outputs
  float* shared = nullptr;          // [M, hidden] what the shared expert computed
  float* shared_gate = nullptr;     // [M] its weight before the sigmoid

  int32_t* output_position = nullptr;   // [O]
  uint32_t* output_sequence = nullptr;  // [O]
  float* logits = nullptr;              // [O, vocabulary]

  bool only_outputs = false;  // the rows at hand are the output rows
  ObjectId object = kNone;    // the object being walked and the chunk that must come next
  uint32_t next_chunk = 0;
};

// The small tensors of one layer or of the model's end; null where the model has none.
struct SmallTensors {
  std::array<const std::byte*, kRoles> at{};
  const std::byte* panels(Role role) const { return at[static_cast<size_t>(role)]; }
  const float* vector(Role role) const { return reinterpret_cast<const float*>(panels(role)); }
};

struct Rotation {  // of one Rope
  uint64_t rotary = 0;
  float scale = 1;
  std::vector<float> inv_freq;       // [rotary / 2]
  std::vector<float> long_inv_freq;  // of requests that pass the original length; empty: the same
  uint64_t long_from = 0;            // the least length of such a request
};

struct Tables {                     // what the decoder resolved once
  std::vector<SmallTensors> small;  // by layer
  SmallTensors final_small;
  const std::byte* positions = nullptr;  // [positions, hidden] in the stored precision
  Rotation rotation, sliding_rotation;   // of full layers, of layers that slide
  float embedding_scale = 1;
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

  // Of the rows at hand.
  uint64_t rows() const { return a.only_outputs ? pass.output_rows.size() : pass.tokens.size(); }
  const int32_t* positions() const {
    return a.only_outputs ? a.output_position : pass.positions.data();
  }
  const uint32_t* sequence() const {
    return a.only_outputs ? a.output_sequence : pass.sequence.data();
  }
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
Product qkv_product(const Call& call);
Product o_product(const Call& call);
// mlp.cpp
Product gate_up_product(const Call& call);
Product down_product(const Call& call);
void activate(const Call& call, uint64_t rows, uint64_t n);  // gate = activation(gate) * up
Product shared_gate_up_product(const Call& call);
Product shared_down_product(const Call& call);
// rope.cpp
std::vector<float> rotary_frequencies(const Rope& rope, bool long_request = false);
Rotation rotation_of(const Rope& rope);
// embedding.cpp
void look_up(const Call& call, const ObjectLayout& embedding, uint32_t chunk,
             const std::byte* data);
Product head_product(const Call& call);
// moe.cpp
void choose_experts(const Call& call);
struct Experts {
  const WeightLayout& layout;
  const std::vector<ObjectId>& objects;  // of the layer, by expert
  std::span<const ExpertData> wanted;
  const ObjectLayout& object(const ExpertData& e) const {
    return layout.objects[objects[e.expert]];
  }
};
// Takes as many of those wanted as find room together, from the front, at least one; how many.
size_t run_experts(const Call& call, const Experts& experts);
void combine_experts(const Call& call);
// model.cpp
// Products of the rows at hand with pieces of matrices, none of which reads what another writes:
// one loop for as many as there is room for. Nothing is computed before run().
class Products {
 public:
  explicit Products(const Call& call) : call_(call) {}
  void add(const ObjectLayout& object, const Piece& piece, const std::byte* chunk,
           const Product& product);
  void run();

 private:
  const Call& call_;
  std::array<kernels::MatmulArgs, 64> products_;
  uint32_t count_ = 0;
};
// What a product reads: `in` itself, or its bfloat16 copy in `narrow` where the weights are.
const void* input_of(const Call& call, const float* in, const uint16_t* narrow);
void narrow_input(const Call& call, const float* in, uint64_t rows, uint64_t k, uint16_t* narrow);
// block.cpp
struct Rows {  // dense
  const float* x;
  float* y;
  uint64_t rows, k;
};
void norm(const Call& call, const SmallTensors& tensors, Role weight, const Rows& rows);
// What a half of a block reads: the residual stream, normed into a.h where the model norms it here,
// and narrowed.
void begin_half(const Call& call, Role norm);
const float* half_input(const Call& call);
struct HalfEnd {
  Role bias, out_norm, sum_norm;
  bool last;  // of the block
};
// What a half of a block does with its product in `out`: bias, norm, sum, norm.
void end_half(const Call& call, float* out, const HalfEnd& end);
void add_bias(const Call& call, Role bias, float* y, uint64_t n);
// From here on the rows at hand are the output rows.
void keep_output_rows(const Call& call);

}  // namespace headrace::models
