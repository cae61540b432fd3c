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
  kRows,    // the embedding table when it is not tied: rows as they are
  kVector,  // norms and biases: float32
};

struct Part {                 // one tensor of the checkpoint inside an object
  std::string tensor;         // "model.layers.0.self_attn.q_proj.weight"
  DType dtype = DType::kF32;  // stored precision in the object
  Form form = Form::kPanels;
  uint64_t rows = 0, k = 0;  // of the checkpoint's tensor; a vector has rows == 1
};

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

struct LayerObjects {  // dense: gate_up, down; mixture of experts: expert E is experts + E
  ObjectId small = kNone, qkv = kNone, o = kNone;
  ObjectId gate_up = kNone, down = kNone;
  ObjectId experts = kNone;
};

struct WeightLayout {
  std::vector<ObjectLayout> objects;         // index = ObjectId
  ObjectId embedding = kNone, head = kNone;  // equal when tied
  ObjectId final_small = kNone;
  std::vector<LayerObjects> layers;
  Bytes bytes() const;  // of all objects
  std::vector<ObjectSpec> specs() const;
};

// Bytes that a chunk aims for: a power of two from 16 KiB to 2 MiB that grows with the model.
Bytes chunk_target(const ModelConfig& config);
WeightLayout layout_of(const ModelConfig& config);

// Calls f for every tensor that the checkpoint must hold, in storage order, once each.
void for_each_tensor(const WeightLayout& layout, const std::function<void(const Part&)>& f);

}  // namespace headrace::models
