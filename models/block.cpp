// How the two halves of a block, attention and feed-forward, read the residual stream and add to
// it.
#include "models/block.h"

#include <cstring>

namespace headrace::models {

void norm(const Call& call, const SmallTensors& tensors, Role weight, const Rows& r) {
  const ModelConfig& g = call.config;
  if (g.block.norm == NormKind::kRms) {
    call.c.k.rms_norm(call.c.pool, {.x = r.x,
                                    .weight = tensors.vector(weight),
                                    .y = r.y,
                                    .rows = r.rows,
                                    .k = r.k,
                                    .x_stride = r.k,
                                    .y_stride = r.k,
                                    .eps = g.norm_eps});
    return;
  }
  const Role bias = static_cast<Role>(static_cast<int>(weight) + 1);
  call.c.k.layer_norm(call.c.pool, {.x = r.x,
                                    .weight = tensors.vector(weight),
                                    .bias = tensors.vector(bias),
                                    .y = r.y,
                                    .rows = r.rows,
                                    .k = r.k,
                                    .x_stride = r.k,
                                    .y_stride = r.k,
                                    .eps = g.norm_eps});
}

const float* half_input(const Call& call) {
  return call.config.block.place == NormPlace::kInput ? call.a.h : call.a.x;
}

void begin_half(const Call& call, Role weight) {
  const uint64_t hidden = call.config.hidden_size;
  if (call.config.block.place == NormPlace::kInput) {
    norm(call, call.small(), weight, {call.a.x, call.a.h, call.rows(), hidden});
  }
  narrow_input(call, half_input(call), call.rows(), hidden, call.a.narrow);
}

void add_bias(const Call& call, Role bias, float* y, uint64_t n) {
  const float* values = call.small().vector(bias);
  if (values == nullptr) return;
  call.c.k.add_bias(call.c.pool,
                    {.bias = values, .y = y, .rows = call.rows(), .n = n, .y_stride = n});
}

void end_half(const Call& call, float* out, const HalfEnd& end) {
  const Block& block = call.config.block;
  const uint64_t hidden = call.config.hidden_size, count = call.rows() * hidden;
  add_bias(call, end.bias, out, hidden);
  if (block.output_norms) norm(call, call.small(), end.out_norm, {out, out, call.rows(), hidden});
  if (block.parallel && !end.last) return;  // in a.held: the other half reads the same stream
  if (block.parallel) {
    call.c.k.add(call.c.pool, {.x = call.a.held, .y = call.a.x, .count = count});
  }
  call.c.k.add(call.c.pool, {.x = out, .y = call.a.x, .count = count});
  if (block.place == NormPlace::kSum) {
    norm(call, call.small(), end.sum_norm, {call.a.x, call.a.x, call.rows(), hidden});
  }
}

void keep_output_rows(const Call& call) {
  const uint64_t hidden = call.config.hidden_size;
  const uint64_t q_width = uint64_t{call.config.heads} * call.config.head_dim;
  const std::span<const uint32_t> rows = call.pass.output_rows;  // ascending
  for (size_t i = 0; i < rows.size(); ++i) {
    call.a.output_position[i] = call.pass.positions[rows[i]];
    call.a.output_sequence[i] = call.pass.sequence[rows[i]];
    if (rows[i] == i) continue;
    std::memcpy(call.a.x + i * hidden, call.a.x + rows[i] * hidden, hidden * sizeof(float));
    std::memcpy(call.a.q + i * q_width, call.a.q + rows[i] * q_width, q_width * sizeof(float));
  }
  call.a.only_outputs = true;
}

}  // namespace headrace::models
