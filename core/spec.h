// What models emit and the scheduler reads: objects (what is moved) and segments (what is
// computed).
//
// An object is cut into chunks, the granule of residency, I/O and compute. Chunk boundaries come
// from the model's config alone, never from a budget, so that every budget computes the same bits.
// Plain data; ids are dense indices into the lists they come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tier.h"

namespace headrace {

using ObjectId = uint32_t;
using SegmentId = uint32_t;
inline constexpr uint32_t kNone = 0xffffffffu;

struct Range {  // [begin, end)
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

struct ObjectSpec {
  ObjectId id = kNone;
  Kind kind = Kind::kWeights;
  std::string name;              // "layers.3.attention.qkv"
  std::vector<Bytes> chunks;     // bytes of each chunk, a multiple of kBlock each
  bool always_resident = false;  // norms, biases, routers: too small to be worth moving

  Bytes bytes() const {
    Bytes sum = 0;
    for (Bytes b : chunks) sum += b;
    return sum;
  }
};

// Cost of one pass over a segment as a function of its rows (tokens) and their context length.
struct Cost {
  double flops_per_row = 0;          // products with weights
  double flops_per_row_context = 0;  // attention: times the context length
  Bytes kv_bytes_per_row = 0;        // appended per token; read once per row per context token
};

enum class SegmentKind : uint8_t {
  kEmbed,    // looks rows up: the tokens decide which chunks of `candidates[0]` are read
  kDense,    // walks its weights chunk by chunk, always all of them
  kRoute,    // computes the experts' choice; weights are always resident
  kExperts,  // the choice decides which objects of `candidates` (one per expert) are read, whole
};

struct SegmentSpec {
  SegmentId id = kNone;
  SegmentKind kind = SegmentKind::kDense;
  std::string name;                  // "layers.3.mlp"
  uint32_t layer = kNone;            // kNone: embedding and head
  std::vector<ObjectId> weights;     // kDense, kRoute: walked in this order, chunk by chunk
  std::vector<ObjectId> candidates;  // kEmbed: one object, its chunks; kExperts: one per expert
  uint32_t choices_per_row = 0;      // most candidates a row picks: 1, or experts per token
  Cost cost;                         // for kExperts: of one expert
  bool per_output = false;           // computes nothing for rows whose logits nobody wants
};

}  // namespace headrace
