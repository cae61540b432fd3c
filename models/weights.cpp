#include "models/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>

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
      : c_(config),
        n_(*config.names),
        q_(uint64_t{config.heads} * config.head_dim),
        kv_(uint64_t{config.kv_heads} * config.head_dim) {
    HEADRACE_ASSERT((c_.experts == 0) == (n_.experts.router == nullptr), config.family);
    const ObjectId embedding = object("embedding", false);
    matrix(n_.embedding, c_.vocab_size, c_.hidden_size);
    out_.embedding = embedding;
    if (!c_.tie_word_embeddings) part().form = Form::kRows;
    if (c_.positions == Positions::kLearned) {
      out_.positions = object("positions", true);
      matrix(n_.positions, c_.max_position_embeddings + c_.position_offset, c_.hidden_size);
      part().form = Form::kRows;
    }
    for (uint32_t i = 0; i < c_.layers; ++i) add_layer(i);
    if (c_.block.final_norm) {
      out_.final_small = object("final.small", true);
      norm(n_.final_norm, Role::kFinalNorm, c_.hidden_size);
    }
    out_.head = embedding;
    if (!c_.tie_word_embeddings) {
      out_.head = object("head", false);
      matrix(n_.head, c_.vocab_size, c_.hidden_size);
      part().also = n_.head_also;
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
  void vector(std::string tensor, Role role, uint64_t k) {
    out_.objects.back().parts.push_back(
        {.tensor = std::move(tensor), .form = Form::kVector, .role = role, .rows = 1, .k = k});
  }
  // A matrix of a layer's product, or its bias: of the fused tensor if there is one.
  void projection(const char* name, const char* fused, uint64_t rows, Slice slice) {
    const char* tensor = fused != nullptr ? fused : name;
    matrix(prefix_ + tensor + ".weight", rows, c_.hidden_size);
    if (fused != nullptr) part().slice = slice;
    part().transposed = n_.transposed;
  }
  void bias(const char* name, const char* fused, Role role, uint64_t k, Slice slice) {
    const char* tensor = fused != nullptr ? fused : name;
    vector(prefix_ + tensor + ".bias", role, k);
    if (fused != nullptr) part().slice = slice;
  }
  void down(const std::string& tensor, uint64_t k) {
    matrix(tensor + ".weight", c_.hidden_size, k);
    part().transposed = n_.transposed;
  }
  void norm(const std::string& tensor, Role role, uint64_t k) {
    vector(tensor + ".weight", role, k);
    part().add_one = c_.block.norms_add_one;
    if (c_.block.norm == NormKind::kLayer) {
      vector(tensor + ".bias", static_cast<Role>(static_cast<int>(role) + 1), k);
    }
  }

  // Where q (0), k (1) and v (2) lie in the tensor that holds all three.
  Slice qkv_slice(int which) const {
    const uint64_t d = c_.head_dim, group = q_ / c_.kv_heads;
    const uint64_t total = q_ + 2 * kv_;
    if (!n_.qkv_by_group) {
      const uint64_t first = which == 0 ? 0 : q_ + (which == 2 ? kv_ : 0);
      const uint64_t rows = which == 0 ? q_ : kv_;
      return {.total = total, .first = first, .run = rows, .stride = rows};
    }
    return {.total = total,
            .first = which == 0 ? 0 : group + (which == 2 ? d : 0),
            .run = which == 0 ? group : d,
            .stride = group + 2 * d};
  }
  Slice gate_up_slice(bool up) const {
    const uint64_t size = c_.intermediate_size;
    return {.total = 2 * size, .first = up ? size : 0, .run = size, .stride = size};
  }

  void add_layer(uint32_t index) {
    prefix_ = fmt::format("{}.{}.", n_.layers, index);
    const std::string name = fmt::format("layers.{}.", index);
    LayerObjects layer;
    layer.small = object(name + "small", true);
    add_small(index);
    layer.qkv = object(name + "attention.qkv", false);
    projection(n_.q, n_.qkv, q_, qkv_slice(0));
    projection(n_.k, n_.qkv, kv_, qkv_slice(1));
    projection(n_.v, n_.qkv, kv_, qkv_slice(2));
    layer.o = object(name + "attention.o", false);
    down(prefix_ + n_.o, q_);
    if (!c_.has_experts(index)) {
      layer.gate_up = object(name + "mlp.gate_up", false);
      projection(n_.gate, n_.gate_up, c_.intermediate_size, gate_up_slice(false));
      if (c_.block.gated) projection(n_.up, n_.gate_up, c_.intermediate_size, gate_up_slice(true));
      layer.down = object(name + "mlp.down", false);
      down(prefix_ + n_.down, c_.intermediate_size);
    } else {
      if (c_.shared_size != 0) add_shared(name, layer);
      layer.experts = static_cast<ObjectId>(out_.objects.size());
      for (uint32_t e = 0; e < c_.experts; ++e) add_expert(name, e);
    }
    out_.layers.push_back(layer);
  }

  void add_small(uint32_t index) {
    const Block& block = c_.block;
    const uint64_t hidden = c_.hidden_size, ffn = c_.intermediate_size;
    const bool mixture = c_.has_experts(index);
    if (block.place != NormPlace::kNone) {
      norm(prefix_ + n_.attention_norm, Role::kAttentionNorm, hidden);
    }
    if (c_.qkv_bias) {
      bias(n_.q, n_.qkv, Role::kQBias, q_, qkv_slice(0));
      bias(n_.k, n_.qkv, Role::kKBias, kv_, qkv_slice(1));
      bias(n_.v, n_.qkv, Role::kVBias, kv_, qkv_slice(2));
    }
    if (c_.qk_norm != QkNorm::kNone) {
      const bool whole = c_.qk_norm == QkNorm::kWhole;
      norm(prefix_ + n_.q_norm, Role::kQNorm, whole ? q_ : c_.head_dim);
      norm(prefix_ + n_.k_norm, Role::kKNorm, whole ? kv_ : c_.head_dim);
    }
    if (c_.o_bias) bias(n_.o, nullptr, Role::kOBias, hidden, {});
    if (block.output_norms) norm(prefix_ + n_.attention_out_norm, Role::kAttentionOutNorm, hidden);
    if (block.place != NormPlace::kNone && !block.one_norm) {
      norm(prefix_ + n_.ffn_norm, Role::kFfnNorm, hidden);
    }
    if (c_.mlp_bias && !mixture) {
      bias(n_.gate, n_.gate_up, Role::kGateBias, ffn, gate_up_slice(false));
      if (block.gated) bias(n_.up, n_.gate_up, Role::kUpBias, ffn, gate_up_slice(true));
      bias(n_.down, nullptr, Role::kDownBias, hidden, {});
    }
    if (block.output_norms) norm(prefix_ + n_.ffn_out_norm, Role::kFfnOutNorm, hidden);
    if (!mixture) return;
    matrix(prefix_ + n_.experts.router, c_.experts, hidden);
    part().role = Role::kRouter;
    if (c_.shared_size == 0) return;
    matrix(prefix_ + n_.experts.shared_gate, 1, hidden);
    part().role = Role::kSharedGate;
  }

  void add_shared(const std::string& name, LayerObjects& layer) {
    const ExpertNames& names = n_.experts;
    const std::string start = fmt::format("{}{}.", prefix_, names.shared);
    layer.gate_up = object(name + "shared.gate_up", false);
    matrix(fmt::format("{}{}.weight", start, names.gate), c_.shared_size, c_.hidden_size);
    matrix(fmt::format("{}{}.weight", start, names.up), c_.shared_size, c_.hidden_size);
    layer.down = object(name + "shared.down", false);
    matrix(fmt::format("{}{}.weight", start, names.down), c_.hidden_size, c_.shared_size);
  }

  void add_expert(const std::string& name, uint32_t expert) {
    const ExpertNames& names = n_.experts;
    const std::string start = fmt::format("{}{}.{}.", prefix_, names.experts, expert);
    object(fmt::format("{}experts.{}", name, expert), false);
    matrix(fmt::format("{}{}.weight", start, names.gate), c_.expert_size, c_.hidden_size);
    matrix(fmt::format("{}{}.weight", start, names.up), c_.expert_size, c_.hidden_size);
    matrix(fmt::format("{}{}.weight", start, names.down), c_.hidden_size, c_.expert_size);
  }

  const ModelConfig& c_;
  const TensorNames& n_;
  const uint64_t q_, kv_;  // rows of q, and of k and of v
  std::string prefix_;     // of the layer at hand
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
  std::set<std::string_view> seen;
  for (const ObjectLayout& object : layout.objects) {
    for (const Part& part : object.parts) {
      if (seen.insert(part.tensor).second) f(part);
    }
  }
}

std::vector<uint64_t> tensor_shape(const Part& part) {
  const uint64_t total = part.slice.total;
  if (part.form == Form::kVector) return {total != 0 ? total : part.k};
  const uint64_t rows = total != 0 ? total : part.rows;
  return part.transposed ? std::vector<uint64_t>{part.k, rows}
                         : std::vector<uint64_t>{rows, part.k};
}

std::vector<SourceRun> source_runs(const Part& part, uint64_t begin, uint64_t end) {
  const Slice& slice = part.slice;
  if (slice.total == 0) return {{.first = begin, .count = end - begin}};
  std::vector<SourceRun> runs;
  while (begin < end) {
    const uint64_t within = begin % slice.run;
    const uint64_t count = std::min(end - begin, slice.run - within);
    runs.push_back(
        {.first = slice.first + begin / slice.run * slice.stride + within, .count = count});
    begin += count;
  }
  return runs;
}

}  // namespace headrace::models
