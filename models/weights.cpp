#include "models/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kernels/args.h"
#include "models/families.h"

namespace headrace::models {

namespace {

constexpr Bytes kTargetLeast = 16 * kKiB;
constexpr Bytes kTargetMost = 2 * kMiB;
constexpr Bytes kRowsTargetMost = 64 * kKiB;   // a lookup reads a chunk for the sake of one row
constexpr Bytes kTiedTargetMost = 256 * kKiB;  // between a lookup's wish and a head's
constexpr Bytes kWhole = std::numeric_limits<Bytes>::max() / 2;  // one chunk, whatever its size
constexpr Bytes kPieceAlignment = 64;   // a cache line, and the unit of a panel
constexpr Bytes kChunksPerModel = 512;  // enough that a small budget can still be filled

// The rows of a part that must stay together, and their bytes.
struct Grain {
  uint64_t rows;
  Bytes bytes;
};

Grain grain_of(const Part& part) {
  switch (part.form) {
    case Form::kPanels:
      return {kernels::kPanelRows, kernels::panel_bytes(part.dtype, part.k)};
    case Form::kRows:
    case Form::kVector:
      return {1, part.k * size_of(part.dtype)};
  }
  HEADRACE_ASSERT(false, "form");
}

uint64_t grains_of(const Part& part) {
  const uint64_t rows = grain_of(part).rows;
  return (part.rows + rows - 1) / rows;
}

Bytes unpadded_bytes(const ObjectLayout& object) {
  Bytes sum = 0;
  for (const Part& part : object.parts) sum += grains_of(part) * grain_of(part).bytes;
  return sum;
}

// Cuts an object into chunks of up to `target` bytes, at least one grain each. Parts follow each
// other without regard to chunk boundaries, so a chunk can end one part and begin the next.
void cut(ObjectLayout& object, Bytes target) {
  Bytes used = 0;
  const auto close = [&] {
    object.chunks.back().bytes = round_up(used, kBlock);
    used = 0;
  };
  object.chunks.emplace_back();
  for (uint32_t p = 0; p < object.parts.size(); ++p) {
    const Part& part = object.parts[p];
    const Grain grain = grain_of(part);
    for (uint64_t row = 0; row < part.rows;) {
      Bytes offset = round_up(used, kPieceAlignment);
      if (used > 0 && offset + grain.bytes > target) {
        close();
        object.chunks.emplace_back();
        offset = 0;
      }
      const uint64_t left = (part.rows - row + grain.rows - 1) / grain.rows;
      const uint64_t fit = offset < target ? (target - offset) / grain.bytes : 0;
      const uint64_t taken = std::min(left, std::max<uint64_t>(fit, 1));
      const uint64_t row_end = std::min(part.rows, row + taken * grain.rows);
      object.chunks.back().pieces.push_back({.part = p,
                                             .row_begin = row,
                                             .row_end = row_end,
                                             .offset = offset,
                                             .bytes = taken * grain.bytes});
      used = offset + taken * grain.bytes;
      row = row_end;
    }
  }
  close();
}

// Lists objects and parts in order of use; cuts nothing yet.
class Enumeration {
 public:
  explicit Enumeration(const ModelConfig& config)
      : c_(config), family_(find_family(config.family)) {
    HEADRACE_ASSERT(family_ != nullptr, config.family);
    HEADRACE_ASSERT((c_.experts == 0) == (family_->experts.router == nullptr), config.family);
    const ObjectId embedding = object("embedding", false);
    matrix("model.embed_tokens.weight", c_.vocab_size, c_.hidden_size);
    out_.embedding = embedding;
    if (!c_.tie_word_embeddings) part().form = Form::kRows;
    for (uint32_t i = 0; i < c_.layers; ++i) add_layer(i);
    out_.final_small = object("final.small", true);
    vector("model.norm.weight", c_.hidden_size);
    out_.head = embedding;
    if (!c_.tie_word_embeddings) {
      out_.head = object("head", false);
      matrix("lm_head.weight", c_.vocab_size, c_.hidden_size);
    }
  }

  WeightLayout take() { return std::move(out_); }

 private:
  ObjectId object(std::string name, bool always_resident) {
    out_.objects.push_back({.name = std::move(name), .always_resident = always_resident});
    return static_cast<ObjectId>(out_.objects.size() - 1);
  }
  Part& part() { return out_.objects.back().parts.back(); }
  void matrix(std::string tensor, uint64_t rows, uint64_t k) {
    out_.objects.back().parts.push_back(
        {.tensor = std::move(tensor), .dtype = c_.dtype, .rows = rows, .k = k});
  }
  void vector(std::string tensor, uint64_t k) {
    out_.objects.back().parts.push_back(
        {.tensor = std::move(tensor), .form = Form::kVector, .rows = 1, .k = k});
  }

  void add_layer(uint32_t index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::string name = fmt::format("layers.{}.", index);
    const uint64_t q = uint64_t{c_.heads} * c_.head_dim, kv = uint64_t{c_.kv_heads} * c_.head_dim;
    LayerObjects layer;
    layer.small = object(name + "small", true);
    add_small(prefix, q, kv);
    layer.qkv = object(name + "attention.qkv", false);
    matrix(prefix + "self_attn.q_proj.weight", q, c_.hidden_size);
    matrix(prefix + "self_attn.k_proj.weight", kv, c_.hidden_size);
    matrix(prefix + "self_attn.v_proj.weight", kv, c_.hidden_size);
    layer.o = object(name + "attention.o", false);
    matrix(prefix + "self_attn.o_proj.weight", c_.hidden_size, q);
    if (c_.experts != 0) {
      layer.experts = static_cast<ObjectId>(out_.objects.size());
      for (uint32_t e = 0; e < c_.experts; ++e) add_expert(prefix, name, e);
    } else {
      layer.gate_up = object(name + "mlp.gate_up", false);
      matrix(prefix + "mlp.gate_proj.weight", c_.intermediate_size, c_.hidden_size);
      matrix(prefix + "mlp.up_proj.weight", c_.intermediate_size, c_.hidden_size);
      layer.down = object(name + "mlp.down", false);
      matrix(prefix + "mlp.down_proj.weight", c_.hidden_size, c_.intermediate_size);
    }
    out_.layers.push_back(layer);
  }

  void add_small(const std::string& prefix, uint64_t q, uint64_t kv) {
    vector(prefix + "input_layernorm.weight", c_.hidden_size);
    if (c_.qkv_bias) {
      vector(prefix + "self_attn.q_proj.bias", q);
      vector(prefix + "self_attn.k_proj.bias", kv);
      vector(prefix + "self_attn.v_proj.bias", kv);
    }
    if (c_.qk_norm) {
      vector(prefix + "self_attn.q_norm.weight", c_.head_dim);
      vector(prefix + "self_attn.k_norm.weight", c_.head_dim);
    }
    if (c_.o_bias) vector(prefix + "self_attn.o_proj.bias", c_.hidden_size);
    vector(prefix + "post_attention_layernorm.weight", c_.hidden_size);
    if (c_.mlp_bias) {
      vector(prefix + "mlp.gate_proj.bias", c_.intermediate_size);
      vector(prefix + "mlp.up_proj.bias", c_.intermediate_size);
      vector(prefix + "mlp.down_proj.bias", c_.hidden_size);
    }
    if (c_.experts != 0) matrix(prefix + family_->experts.router, c_.experts, c_.hidden_size);
  }

  void add_expert(const std::string& prefix, const std::string& name, uint32_t expert) {
    const ExpertNames& names = family_->experts;
    const std::string start = fmt::format("{}{}.{}.", prefix, names.experts, expert);
    object(fmt::format("{}experts.{}", name, expert), false);
    matrix(fmt::format("{}{}.weight", start, names.gate), c_.intermediate_size, c_.hidden_size);
    matrix(fmt::format("{}{}.weight", start, names.up), c_.intermediate_size, c_.hidden_size);
    matrix(fmt::format("{}{}.weight", start, names.down), c_.hidden_size, c_.intermediate_size);
  }

  const ModelConfig& c_;
  const Family* family_;
  WeightLayout out_;
};

Bytes target_of(const WeightLayout& uncut) {
  Bytes total = 0;
  for (const ObjectLayout& object : uncut.objects) total += unpadded_bytes(object);
  const Bytes wanted = total / kChunksPerModel;
  Bytes target = kTargetLeast;  // doubled while the next power of two is nearer, or as near
  while (target < kTargetMost && 2 * wanted >= 3 * target) target *= 2;
  return target;
}

}  // namespace

Bytes chunk_target(const ModelConfig& config) { return target_of(Enumeration(config).take()); }

WeightLayout layout_of(const ModelConfig& config) {
  WeightLayout layout = Enumeration(config).take();
  const Bytes target = target_of(layout);
  const bool tied = layout.embedding == layout.head;
  for (ObjectId id = 0; id < layout.objects.size(); ++id) {
    ObjectLayout& object = layout.objects[id];
    if (id == layout.embedding) {
      cut(object, std::min(target, tied ? kTiedTargetMost : kRowsTargetMost));
    } else {
      cut(object, object.always_resident ? kWhole : target);
    }
  }
  return layout;
}

Bytes WeightLayout::bytes() const {
  Bytes sum = 0;
  for (const ObjectLayout& object : objects) {
    for (const ChunkLayout& chunk : object.chunks) sum += chunk.bytes;
  }
  return sum;
}

std::vector<ObjectSpec> WeightLayout::specs() const {
  std::vector<ObjectSpec> specs;
  specs.reserve(objects.size());
  for (const ObjectLayout& object : objects) {
    ObjectSpec spec{.id = static_cast<ObjectId>(specs.size()),
                    .kind = Kind::kWeights,
                    .name = object.name,
                    .always_resident = object.always_resident};
    spec.chunks.reserve(object.chunks.size());
    for (const ChunkLayout& chunk : object.chunks) spec.chunks.push_back(chunk.bytes);
    specs.push_back(std::move(spec));
  }
  return specs;
}

void for_each_tensor(const WeightLayout& layout, const std::function<void(const Part&)>& f) {
  for (const ObjectLayout& object : layout.objects) {
    for (const Part& part : object.parts) f(part);
  }
}

}  // namespace headrace::models
