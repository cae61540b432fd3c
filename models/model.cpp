#include "models/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/half.h"
#include "models/block.h"

namespace headrace::models {

namespace {

double product_flops(const WeightLayout& layout, ObjectId object) {
  double flops = 0;
  for (const Part& part : layout.objects[object].parts) {
    if (part.form != Form::kVector) {
      flops += 2.0 * static_cast<double>(part.rows) * static_cast<double>(part.k);
    }
  }
  return flops;
}

// Builds the segments in the order of a pass.
class SegmentList {
 public:
  SegmentList(const ModelConfig& config, const WeightLayout& layout)
      : config_(config), layout_(layout) {
    SegmentSpec& embed = add(SegmentKind::kEmbed, "embed", kNone);
    embed.candidates = {layout.embedding};
    embed.choices_per_row = 1;
    for (uint32_t i = 0; i < config.layers; ++i) add_layer(i);
    add_dense("head", kNone, {layout.head});
    // What follows the last keys and values: the decoder drops rows there.
    for (SegmentSpec& segment : segments_) {
      const bool at_end = segment.layer == kNone || segment.layer + 1 == config.layers;
      const bool fills_kv = segment.cost.kv_bytes_per_row != 0;
      segment.per_output = at_end && !fills_kv && segment.kind != SegmentKind::kEmbed;
    }
  }
  std::vector<SegmentSpec> take() { return std::move(segments_); }

 private:
  SegmentSpec& add(SegmentKind kind, std::string name, uint32_t layer) {
    segments_.push_back({.id = static_cast<SegmentId>(segments_.size()),
                         .kind = kind,
                         .name = std::move(name),
                         .layer = layer});
    return segments_.back();
  }

  SegmentSpec& add_dense(std::string name, uint32_t layer, std::vector<ObjectId> weights) {
    SegmentSpec& segment = add(SegmentKind::kDense, std::move(name), layer);
    for (const ObjectId id : weights) segment.cost.flops_per_row += product_flops(layout_, id);
    segment.weights = std::move(weights);
    return segment;
  }

  void add_layer(uint32_t index) {
    const LayerObjects& objects = layout_.layers[index];
    SegmentSpec& attention =
        add_dense(fmt::format("layers.{}.attention", index), index, {objects.qkv, objects.o});
    const double q_width = static_cast<double>(config_.heads) * config_.head_dim;
    attention.cost.flops_per_row_context = 4 * q_width;  // q k^T and weights v, two each
    attention.cost.kv_bytes_per_row =
        2 * uint64_t{config_.kv_heads} * config_.head_dim * size_of(kv_type_of(config_));
    if (!config_.has_experts(index)) {
      add_dense(fmt::format("layers.{}.mlp", index), index, {objects.gate_up, objects.down});
      return;
    }
    if (config_.shared_size != 0) {
      add_dense(fmt::format("layers.{}.shared", index), index, {objects.gate_up, objects.down});
    }
    SegmentSpec& router = add(SegmentKind::kRoute, fmt::format("layers.{}.router", index), index);
    router.weights = {objects.small};
    router.cost.flops_per_row = product_flops(layout_, objects.small);
    SegmentSpec& experts =
        add(SegmentKind::kExperts, fmt::format("layers.{}.experts", index), index);
    for (uint32_t e = 0; e < config_.experts; ++e) {
      experts.candidates.push_back(objects.experts + e);
    }
    experts.choices_per_row = config_.experts_per_token;
    experts.cost.flops_per_row = product_flops(layout_, objects.experts);
  }

  const ModelConfig& config_;
  const WeightLayout& layout_;
  std::vector<SegmentSpec> segments_;
};

uint64_t even(uint64_t k) { return (k + 1) / 2 * 2; }

// One enumeration of the buffers: it sizes them (no room) and carves them (room). A buffer takes
// per_row or per_output times a count, and up to a cache line to align the next.
class Carver {
 public:
  Carver(const ModelConfig& config, Bump* room, uint64_t rows, uint64_t outputs)
      : room_(room), rows_(rows), outputs_(outputs) {
    const uint64_t q = uint64_t{config.heads} * config.head_dim;
    const uint64_t kv = uint64_t{config.kv_heads} * config.head_dim;
    const uint64_t hidden = config.hidden_size;
    const uint64_t ffn =
        std::max({config.intermediate_size, config.expert_size, config.shared_size});
    const bool narrows = config.dtype == DType::kBF16;
    // One row's experts run together; several rows' as far as this goes.
    const uint64_t more = config.experts != 0 ? 2 * config.experts_per_token : 0;
    const uint64_t chosen = rows_ + more;
    Activations& a = buffers_;
    a.chosen_max = chosen;
    take(a.x, rows_, hidden);
    take(a.h, rows_, hidden);
    take(a.q, rows_, q);
    take(a.k, rows_, kv);
    take(a.v, rows_, kv);
    take(a.mixed, rows_, q);
    take(a.gate, chosen, ffn);
    if (config.block.gated) take(a.up, chosen, ffn);
    if (config.block.parallel) take(a.held, rows_, hidden);
    if (narrows) take(a.narrow, chosen, even(std::max({hidden, q, ffn})));
    if (config.experts != 0) {
      const uint64_t ranks = config.experts_per_token;
      take(a.router_logits, rows_, config.experts);
      take(a.expert, rows_, ranks);
      take(a.expert_weight, rows_, ranks);
      take(a.part, rows_, ranks * hidden);
      take(a.chosen_row, chosen, 1);
      take(a.chosen_slot, chosen, 1);
      take(a.gathered, chosen, hidden);
      if (config.shared_size != 0) {
        take(a.shared, rows_, hidden);
        take(a.shared_gate, rows_, 1);
      }
    }
    take(a.output_position, outputs_, 1);
    take(a.output_sequence, outputs_, 1);
    take(a.logits, outputs_, config.vocab_size);
  }

  const Activations& buffers() const { return buffers_; }
  Bytes bytes() const { return bytes_; }

 private:
  static constexpr Bytes kLine = 64;

  template <typename T>
  void take(T*& buffer, uint64_t count, uint64_t width) {
    const Bytes bytes = count * width * sizeof(T);
    bytes_ += bytes + kLine;  // not rounded up, so that the sum stays affine in both counts
    if (room_ != nullptr) buffer = reinterpret_cast<T*>(room_->take(bytes, kLine));
  }

  Bump* room_;
  uint64_t rows_, outputs_;
  Activations buffers_;
  Bytes bytes_ = 0;
};

SmallTensors small_tensors(const ObjectLayout& object, const std::byte* address) {
  HEADRACE_ASSERT(object.always_resident && object.chunks.size() == 1, object.name);
  SmallTensors out;
  for (const Piece& piece : object.chunks[0].pieces) {
    out.at[static_cast<size_t>(object.parts[piece.part].role)] = address + piece.offset;
  }
  return out;
}

// The square root as transformers rounds it: in the precision of the table that it multiplies.
float embedding_scale_of(const ModelConfig& config) {
  const float root = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_size)));
  if (config.dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(root));
  return config.dtype == DType::kF16 ? f16_to_f32(f32_to_f16(root)) : root;
}

}  // namespace

void Products::add(const ObjectLayout& object, const Piece& piece, const std::byte* chunk,
                   const Product& product) {
  if (product.m == 0) return;
  if (count_ == products_.size()) run();
  const Part& part = object.parts[piece.part];
  products_[count_++] = {.x = product.x,
                         .w = chunk + piece.offset,
                         .w_type = part.dtype,
                         .m = product.m,
                         .k = part.k,
                         .n = piece.row_end - piece.row_begin,
                         .y = product.y[piece.part] + piece.row_begin,  // [m, part.rows]
                         .y_stride = part.rows};
}

void Products::run() {
  call_.c.k.matmul_each(call_.c.pool, {products_.data(), count_});
  count_ = 0;
}

const void* input_of(const Call& call, const float* in, const uint16_t* narrow) {
  return call.config.dtype == DType::kBF16 ? static_cast<const void*>(narrow) : in;
}

void narrow_input(const Call& call, const float* in, uint64_t rows, uint64_t k, uint16_t* narrow) {
  if (call.config.dtype != DType::kBF16) return;
  call.c.k.narrow(call.c.pool, {.in = in, .rows = rows, .k = k, .in_stride = k, .out = narrow});
}

Decoder::Decoder(const ModelConfig& config, const WeightLayout& layout)
    : config_(config),
      layout_(layout),
      segments_(SegmentList(config, layout).take()),
      tables_(std::make_unique<Tables>()) {
  HEADRACE_ASSERT(layout.layers.size() == config.layers);
  tables_->small.resize(config.layers);
  if (config_.positions == Positions::kRotary) {
    tables_->rotation = rotation_of(config_.rope);
    if (config_.sliding_rope) tables_->sliding_rotation = rotation_of(*config_.sliding_rope);
  }
  tables_->embedding_scale = embedding_scale_of(config_);
  tables_->embedding_rows_per_chunk =
      layout.objects[layout.embedding].chunks.front().pieces.front().row_end;
  tables_->kv_layer_bytes = round_up(
      kernels::kv_layer_block_bytes(kv_type(), config_.kv_heads, config_.head_dim), kBlock);
}

Decoder::~Decoder() = default;

Bytes Decoder::activation_bytes(uint32_t rows, uint32_t outputs) const {
  return Carver(config_, nullptr, rows, outputs).bytes();
}

Bytes Decoder::kv_block_bytes() const { return config_.layers * tables_->kv_layer_bytes; }

Bytes Decoder::kv_layer_bytes() const { return tables_->kv_layer_bytes; }

uint64_t Decoder::long_from() const { return tables_->rotation.long_from; }

DType Decoder::kv_type() const { return kv_type_of(config_); }

std::unique_ptr<Activations, void (*)(Activations*)> Decoder::bind(std::span<std::byte> memory,
                                                                   uint32_t rows,
                                                                   uint32_t outputs) const {
  HEADRACE_ASSERT(memory.size() >= activation_bytes(rows, outputs),
                  fmt::format("{} bytes, {} rows, {} outputs", memory.size(), rows, outputs));
  Bump bump(memory);
  auto* buffers = new Activations(Carver(config_, &bump, rows, outputs).buffers());
  buffers->rows_max = rows;
  buffers->outputs_max = outputs;
  return {buffers, [](Activations* a) { delete a; }};
}

float* Decoder::logits(Activations& a) const { return a.logits; }

void Decoder::bind_resident(ObjectId object, const std::byte* address) {
  if (object == layout_.final_small) {
    tables_->final_small = small_tensors(layout_.objects[object], address);
    return;
  }
  if (object == layout_.positions) {
    tables_->positions = address + layout_.objects[object].chunks[0].pieces[0].offset;
    return;
  }
  for (uint32_t i = 0; i < config_.layers; ++i) {
    if (layout_.layers[i].small != object) continue;
    tables_->small[i] = small_tensors(layout_.objects[object], address);
    return;
  }
  HEADRACE_ASSERT(false, fmt::format("object {} is not always resident", object));
}

void Decoder::begin(Context&, Activations& a, const Pass& pass) const {
  const size_t rows = pass.tokens.size();
  HEADRACE_ASSERT(rows > 0 && rows <= a.rows_max, fmt::format("{} of {}", rows, a.rows_max));
  HEADRACE_ASSERT(pass.positions.size() == rows && pass.sequence.size() == rows);
  HEADRACE_ASSERT(pass.kv_offsets.empty() || pass.kv_offsets.size() == config_.layers);
  HEADRACE_ASSERT(pass.output_rows.size() <= a.outputs_max);
  HEADRACE_ASSERT(pass.output_rows.empty() || pass.logits != nullptr);
  for (size_t m = 0; m < rows; ++m) {
    HEADRACE_ASSERT(
        pass.tokens[m] >= 0 && static_cast<uint64_t>(pass.tokens[m]) < config_.vocab_size,
        fmt::format("row {}: token {}", m, pass.tokens[m]));
    HEADRACE_ASSERT(pass.positions[m] >= 0 && pass.sequence[m] < pass.sequences.size(),
                    fmt::format("row {}", m));
  }
  for (size_t i = 0; i < pass.output_rows.size(); ++i) {
    HEADRACE_ASSERT(pass.output_rows[i] < rows &&
                    (i == 0 || pass.output_rows[i - 1] < pass.output_rows[i]));
  }
  HEADRACE_ASSERT(tables_->small[0].at != SmallTensors{}.at, "bind_resident comes before a pass");
  a.only_outputs = false;
  a.object = kNone;
  a.next_chunk = 0;
}

uint32_t Decoder::embedding_chunk(int32_t token) const {
  HEADRACE_ASSERT(token >= 0 && static_cast<uint64_t>(token) < config_.vocab_size,
                  fmt::format("token {}", token));
  return static_cast<uint32_t>(static_cast<uint64_t>(token) / tables_->embedding_rows_per_chunk);
}

void Decoder::embed(Context& c, Activations& a, const Pass& pass, uint32_t chunk,
                    const std::byte* data) const {
  const Call call{c, a, pass, config_, *tables_, kNone};
  look_up(call, layout_.objects[layout_.embedding], chunk, data);
}

namespace {

Product product_for(const Call& call, const LayerObjects* layer, ObjectId object) {
  if (layer == nullptr) return head_product(call);
  if (object == layer->qkv) return qkv_product(call);
  if (object == layer->o) return o_product(call);
  const bool shared = call.config.has_experts(call.layer);
  if (object == layer->gate_up) {
    return shared ? shared_gate_up_product(call) : gate_up_product(call);
  }
  HEADRACE_ASSERT(object == layer->down, fmt::format("object {}", object));
  return shared ? shared_down_product(call) : down_product(call);
}

}  // namespace

void Decoder::forward(Context& c, Activations& a, const Pass& pass, SegmentId segment,
                      ObjectId object, uint32_t first,
                      std::span<const std::byte* const> data) const {
  const SegmentSpec& spec = segments_[segment];
  HEADRACE_ASSERT(spec.kind == SegmentKind::kDense, spec.name);
  const ObjectLayout& weights = layout_.objects[object];
  const uint32_t end = first + static_cast<uint32_t>(data.size());
  HEADRACE_ASSERT(first < end && end <= weights.chunks.size(), weights.name);
  HEADRACE_ASSERT(first == 0 || (a.object == object && a.next_chunk == first),
                  fmt::format("{}: chunk {} after {}", weights.name, first, a.next_chunk));
  const LayerObjects* layer = spec.layer == kNone ? nullptr : &layout_.layers[spec.layer];
  const Call call{c, a, pass, config_, *tables_, spec.layer};
  const Product product = product_for(call, layer, object);
  if (first == 0) product.begin(call);
  Products products(call);
  for (uint32_t i = first; i < end; ++i) {
    for (const Piece& piece : weights.chunks[i].pieces) {
      products.add(weights, piece, data[i - first], product);
    }
  }
  products.run();
  if (end == weights.chunks.size() && product.end != nullptr) product.end(call);
  a.object = object;
  a.next_chunk = end;
}

std::span<const uint32_t> Decoder::route(Context& c, Activations& a, const Pass& pass,
                                         SegmentId segment) const {
  const SegmentSpec& spec = segments_[segment];
  HEADRACE_ASSERT(spec.kind == SegmentKind::kRoute, spec.name);
  const Call call{c, a, pass, config_, *tables_, spec.layer};
  choose_experts(call);
  return {a.expert, call.rows() * config_.experts_per_token};
}

void Decoder::experts(Context& c, Activations& a, const Pass& pass, SegmentId segment,
                      std::span<const ExpertData> experts) const {
  const SegmentSpec& spec = segments_[segment];
  HEADRACE_ASSERT(spec.kind == SegmentKind::kExperts, spec.name);
  const Call call{c, a, pass, config_, *tables_, spec.layer};
  for (size_t begin = 0; begin < experts.size();) {
    begin += run_experts(call, {layout_, spec.candidates, experts.subspan(begin)});
  }
}

void Decoder::combine(Context& c, Activations& a, const Pass& pass, SegmentId segment) const {
  const SegmentSpec& spec = segments_[segment];
  HEADRACE_ASSERT(spec.kind == SegmentKind::kExperts, spec.name);
  combine_experts({c, a, pass, config_, *tables_, spec.layer});
}

}  // namespace headrace::models
