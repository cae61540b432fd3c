// Attention of a block: norm, q k v, rope, cache, softmax over the cache, output product, residual.
#include <cmath>
#include <numbers>

#include "models/block.h"

namespace headrace::models {

namespace {

// Llama 3's scaling of one frequency; see RopeScaling.
double scaled_frequency(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < s.original_positions / s.high_freq) return frequency;
  if (wavelength > s.original_positions / s.low_freq) return frequency / s.factor;
  const double kept = (s.original_positions / wavelength - s.low_freq) / (s.high_freq - s.low_freq);
  return (1 - kept) * frequency / s.factor + kept * frequency;
}

void qkv_begin(const Call& call) { norm_input(call, call.small().input_norm); }

void add_bias(const Call& call, const float* bias, float* y, uint64_t n) {
  if (bias == nullptr) return;
  call.c.k.add_bias(call.c.pool,
                    {.bias = bias, .y = y, .rows = call.rows(), .n = n, .y_stride = n});
}

// Norm of every head (where the model has it), then rotation; x is q or k. [M, heads, head_dim]
void norm_and_rotate(const Call& call, float* x, uint64_t heads, const float* norm) {
  const uint64_t d = call.config.head_dim;
  if (norm != nullptr) {
    call.c.k.rms_norm(call.c.pool, {.x = x,
                                    .weight = norm,
                                    .y = x,
                                    .rows = call.rows() * heads,
                                    .k = d,
                                    .x_stride = d,
                                    .y_stride = d,
                                    .eps = call.config.rms_norm_eps});
  }
  call.c.k.rope(call.c.pool, {.x = x,
                              .positions = call.pass.positions.data(),
                              .inv_freq = call.tables.inv_freq.data(),
                              .rows = call.rows(),
                              .heads = heads,
                              .head_dim = d,
                              .x_stride = heads * d,
                              .scale = 1.0f});
}

uint32_t window_of(const ModelConfig& config, uint32_t layer) {
  const bool slides = config.layer_slides.empty() || config.layer_slides[layer] != 0;
  return slides ? config.sliding_window : 0;
}

void qkv_end(const Call& call) {
  const ModelConfig& g = call.config;
  const uint64_t d = g.head_dim, q_width = g.heads * d, kv_width = g.kv_heads * d;
  const SmallTensors& w = call.small();
  add_bias(call, w.q_bias, call.a.q, q_width);
  add_bias(call, w.k_bias, call.a.k, kv_width);
  add_bias(call, w.v_bias, call.a.v, kv_width);
  norm_and_rotate(call, call.a.q, g.heads, w.q_norm);
  norm_and_rotate(call, call.a.k, g.kv_heads, w.k_norm);
  const Bytes layer_offset = call.kv_offset();
  call.c.k.kv_append(call.c.pool, {.k = call.a.k,
                                   .v = call.a.v,
                                   .k_stride = kv_width,
                                   .v_stride = kv_width,
                                   .sequence = call.pass.sequence.data(),
                                   .positions = call.pass.positions.data(),
                                   .sequences = call.pass.sequences.data(),
                                   .layer_offset = layer_offset,
                                   .kv_type = kv_type_of(g),
                                   .rows = call.rows(),
                                   .kv_heads = g.kv_heads,
                                   .head_dim = d});
  call.c.k.attention(call.c.pool,
                     {.q = call.a.q,
                      .q_stride = q_width,
                      .out = call.a.mixed,  // [M, heads, head_dim]
                      .sequence = call.pass.sequence.data(),
                      .positions = call.pass.positions.data(),
                      .sequences = call.pass.sequences.data(),
                      .layer_offset = layer_offset,
                      .kv_type = kv_type_of(g),
                      .rows = call.rows(),
                      .heads = g.heads,
                      .kv_heads = g.kv_heads,
                      .head_dim = d,
                      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d))),
                      .window = window_of(g, call.layer)});
}

void o_begin(const Call& call) {
  const uint64_t width = uint64_t{call.config.heads} * call.config.head_dim;
  narrow_input(call, call.a.mixed, call.rows(), width, call.a.narrow);
}

void o_end(const Call& call) {
  add_bias(call, call.small().o_bias, call.a.h, call.config.hidden_size);
  call.c.k.add(call.c.pool, {.x = call.a.h,
                             .y = call.a.x,  // [M, hidden]
                             .count = call.rows() * call.config.hidden_size});
}

}  // namespace

// float16 models keep a float32 cache: a bfloat16 one would drop three of their bits.
DType kv_type_of(const ModelConfig& config) {
  return config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

// Rounded to float32 where transformers rounds (exponent, power, reciprocal), because at position
// 100,000 the rounding of a frequency is visible in the angle, and models are trained with it.
std::vector<float> rotary_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  for (uint32_t i = 0; i < config.head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    const float power = static_cast<float>(std::pow(config.rope_theta, double{exponent}));
    const float frequency = 1.0f / power;
    frequencies.push_back(
        config.rope_scaling.factor == 0
            ? frequency
            : static_cast<float>(scaled_frequency(double{frequency}, config.rope_scaling)));
  }
  return frequencies;
}

Product qkv_product(const Call& call) {
  return {.begin = qkv_begin,
          .end = qkv_end,
          .x = input_of(call, call.a.h, call.a.narrow),
          .m = call.rows(),
          .y = {call.a.q, call.a.k, call.a.v}};
}

// Writes over h: the norm that it held was consumed by q, k and v.
Product o_product(const Call& call) {
  return {.begin = o_begin,
          .end = o_end,
          .x = input_of(call, call.a.mixed, call.a.narrow),
          .m = call.rows(),
          .y = {call.a.h}};
}

}  // namespace headrace::models
