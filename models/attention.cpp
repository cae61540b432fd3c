// Attention of a block: norm, q k v, rope, cache, softmax over the cache, output product, residual.
#include <cmath>

#include "models/block.h"

namespace headrace::models {

namespace {

void qkv_begin(const Call& call) { begin_half(call, Role::kAttentionNorm); }

// Rows of requests of one kind, short or long, lie together more often than not: one call for each
// run of them.
void rotate(const Call& call, float* x, uint64_t heads) {
  const ModelConfig& g = call.config;
  const bool sliding = g.sliding_rope && g.slides(call.layer);
  const Rotation& r = sliding ? call.tables.sliding_rotation : call.tables.rotation;
  const uint64_t stride = heads * g.head_dim;
  const auto is_long = [&](uint64_t row) {
    return !r.long_inv_freq.empty() && !call.pass.lengths.empty() &&
           call.pass.lengths[call.sequence()[row]] >= r.long_from;
  };
  for (uint64_t row = 0, next; row < call.rows(); row = next) {
    const bool slow = is_long(row);
    for (next = row + 1; next < call.rows() && is_long(next) == slow;) ++next;
    call.c.k.rope(call.c.pool, {.x = x + row * stride,
                                .positions = call.positions() + row,
                                .inv_freq = slow ? r.long_inv_freq.data() : r.inv_freq.data(),
                                .rows = next - row,
                                .heads = heads,
                                .head_dim = g.head_dim,
                                .x_stride = stride,
                                .scale = r.scale,
                                .rotary = r.rotary});
  }
}

// Norm of q or k (where the model has it), then rotation. [M, heads, head_dim]
void norm_and_rotate(const Call& call, float* x, uint64_t heads, Role weight) {
  const ModelConfig& g = call.config;
  const uint64_t rows = call.rows(), d = g.head_dim;
  if (g.qk_norm == QkNorm::kHead) norm(call, call.small(), weight, {x, x, rows * heads, d});
  if (g.qk_norm == QkNorm::kWhole) norm(call, call.small(), weight, {x, x, rows, heads * d});
  if (g.positions == Positions::kRotary) rotate(call, x, heads);
}

float score_scale(const ModelConfig& g, uint32_t layer) {
  const double scalar = g.attention_scalar != 0 ? g.attention_scalar : g.head_dim;
  const double scale = 1.0 / std::sqrt(scalar);
  return static_cast<float>(g.attention_scaled_by_layer ? scale / (layer + 1) : scale);
}

void append_keys_and_values(const Call& call) {
  const ModelConfig& g = call.config;
  const uint64_t kv_width = uint64_t{g.kv_heads} * g.head_dim;
  add_bias(call, Role::kKBias, call.a.k, kv_width);
  add_bias(call, Role::kVBias, call.a.v, kv_width);
  norm_and_rotate(call, call.a.k, g.kv_heads, Role::kKNorm);
  call.c.k.kv_append(call.c.pool, {.k = call.a.k,
                                   .v = call.a.v,
                                   .k_stride = kv_width,
                                   .v_stride = kv_width,
                                   .sequence = call.sequence(),
                                   .positions = call.positions(),
                                   .sequences = call.pass.sequences.data(),
                                   .layer_offset = call.kv_offset(),
                                   .kv_type = kv_type_of(g),
                                   .rows = call.rows(),
                                   .kv_heads = g.kv_heads,
                                   .head_dim = g.head_dim});
}

void qkv_end(const Call& call) {
  const ModelConfig& g = call.config;
  const uint64_t q_width = uint64_t{g.heads} * g.head_dim;
  append_keys_and_values(call);
  if (call.layer + 1 == g.layers && !call.pass.every_row) keep_output_rows(call);
  add_bias(call, Role::kQBias, call.a.q, q_width);
  norm_and_rotate(call, call.a.q, g.heads, Role::kQNorm);
  call.c.k.attention(call.c.pool, {.q = call.a.q,
                                   .q_stride = q_width,
                                   .out = call.a.mixed,  // [M, heads, head_dim]
                                   .sequence = call.sequence(),
                                   .positions = call.positions(),
                                   .sequences = call.pass.sequences.data(),
                                   .layer_offset = call.kv_offset(),
                                   .kv_type = kv_type_of(g),
                                   .rows = call.rows(),
                                   .heads = g.heads,
                                   .kv_heads = g.kv_heads,
                                   .head_dim = g.head_dim,
                                   .scale = score_scale(g, call.layer),
                                   .window = g.slides(call.layer) ? g.sliding_window : 0,
                                   .softcap = g.attention_softcap});
}

void o_begin(const Call& call) {
  const uint64_t width = uint64_t{call.config.heads} * call.config.head_dim;
  narrow_input(call, call.a.mixed, call.rows(), width, call.a.narrow);
}

// Over h, whose norm q, k and v consumed, unless the feed-forward reads the stream as it was.
float* attention_out(const Call& call) {
  return call.config.block.parallel ? call.a.held : call.a.h;
}

void o_end(const Call& call) {
  end_half(call, attention_out(call),
           {.bias = Role::kOBias,
            .out_norm = Role::kAttentionOutNorm,
            .sum_norm = Role::kAttentionNorm,
            .last = false});
}

}  // namespace

// float16 models keep a float32 cache: a bfloat16 one would drop three of their bits.
DType kv_type_of(const ModelConfig& config) {
  return config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

Product qkv_product(const Call& call) {
  return {.begin = qkv_begin,
          .end = qkv_end,
          .x = input_of(call, half_input(call), call.a.narrow),
          .m = call.rows(),
          .y = {call.a.q, call.a.k, call.a.v}};
}

Product o_product(const Call& call) {
  return {.begin = o_begin,
          .end = o_end,
          .x = input_of(call, call.a.mixed, call.a.narrow),
          .m = call.rows(),
          .y = {attention_out(call)}};
}

}  // namespace headrace::models
