// Where every tensor of a model goes: into which object, chunk and offset, in which form. One
// enumeration drives preparing the store, planning, loading and binding. Pure: a function of the
// config alone.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/spec.h"
#include "models/config.h"

namespace headrace::models {

enum class Form : uint8_t {
  kPanels,  // matrices: 16-row panels in the stored precision (kernels/args.h)
  kRows,    // tables that are looked up: rows as they are
  kVector,  // norms and biases: float32
};

// What the small tensors of a layer and of the model's end are for.
enum class Role : uint8_t {
  kMatrix,  // of an object's product, by its place in the object
  kAttentionNorm,
  kAttentionNormBias,
  kAttentionOutNorm,
  kAttentionOutNormBias,
  kFfnNorm,
  kFfnNormBias,
  kFfnOutNorm,
  kFfnOutNormBias,
  kFinalNorm,
  kFinalNormBias,
  kQBias,
  kKBias,
  kVBias,
  kOBias,
  kQNorm,
  kKNorm,
  kGateBias,
  kUpBias,
  kDownBias,
  kRouter,
  kSharedGate,
};
inline constexpr size_t kRoles = static_cast<size_t>(Role::kSharedGate) + 1;

// Which rows of a tensor a part is, where several parts are stored as one tensor: runs of `run`
// rows, the first at `first`, one every `stride` rows. Of a vector: which elements.
struct Slice {
  uint64_t total = 0;  // rows of the tensor; 0: the part is all of it
  uint64_t first = 0, run = 0, stride = 0;
};

struct Part {                 // a tensor of the checkpoint, or a slice of one, inside an object
  std::string tensor;         // "model.layers.0.self_attn.q_proj.weight"
  std::string also;           // another name that files have for it; may be empty
  DType dtype = DType::kF32;  // stored precision in the object
  Form form = Form::kPanels;
  Role role = Role::kMatrix;
  uint64_t rows = 0, k = 0;  // a vector has rows == 1
  Slice slice;
  bool transposed = false;  // the checkpoint's tensor is [k, rows]
  bool add_one = false;     // the checkpoint holds what the elements exceed 1 by
};

// The shape of the tensor that the part is, or is a slice of.
std::vector<uint64_t> tensor_shape(const Part& part);

// Rows [first, first + count) of the tensor (of a vector: elements), which lie together.
struct SourceRun {
  uint64_t first = 0, count = 0;
};
// What rows [begin, end) of the part are; of a vector, elements.
std::vector<SourceRun> source_runs(const Part& part, uint64_t begin, uint64_t end);

struct Piece {                          // a run of rows of a part inside a chunk
  uint32_t part = 0;                    // index into ObjectLayout::parts
  uint64_t row_begin = 0, row_end = 0;  // kPanels: multiples of 16, but for the part's end
  Bytes offset = 0;                     // from the start of the chunk, a multiple of 64
  Bytes bytes = 0;
};

struct ChunkLayout {
  Bytes bytes = 0;  // a multiple of kBlock; what no piece covers is zero
  std::vector<Piece> pieces;
};

struct ObjectLayout {
  std::string name;  // "layers.3.mlp.down"
  bool always_resident = false;
  std::vector<Part> parts;
  std::vector<ChunkLayout> chunks;
};

// Dense: gate_up, down. Mixture of experts: expert E is experts + E; gate_up and down are those of
// the shared expert, if there is one.
struct LayerObjects {
  ObjectId small = kNone, qkv = kNone, o = kNone;
  ObjectId gate_up = kNone, down = kNone;
  ObjectId experts = kNone;
};

struct WeightLayout {
  std::vector<ObjectLayout> objects;         // index = ObjectId
  ObjectId embedding = kNone, head = kNone;  // equal when tied
  ObjectId positions = kNone;                // learned positions: a table that is always resident
  ObjectId final_small = kNone;              // kNone: the model ends without a norm
  std::vector<LayerObjects> layers;
  Bytes bytes() const;  // of all objects
  std::vector<ObjectSpec> specs() const;
};

// Bytes that a chunk aims for: a power of two from 16 KiB to 2 MiB that grows with the model.
Bytes chunk_target(const ModelConfig& config);
WeightLayout layout_of(const ModelConfig& config);

// Calls f for every tensor that the checkpoint must hold, in storage order, once each, with the
// first part that reads it.
void for_each_tensor(const WeightLayout& layout, const std::function<void(const Part&)>& f);

}  // namespace headrace::models
