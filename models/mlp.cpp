// The dense feed-forward of a block: norm, gate and up, silu(gate) * up, down, residual.
#include "models/block.h"

namespace headrace::models {

namespace {

void gate_up_begin(const Call& call) { norm_input(call, call.small().post_norm); }

void gate_up_end(const Call& call) { activate(call, call.rows()); }

void down_begin(const Call& call) {
  narrow_input(call, call.a.gate, call.rows(), call.config.intermediate_size, call.a.narrow);
}

void down_end(const Call& call) {
  const uint64_t hidden = call.config.hidden_size;
  if (call.small().down_bias != nullptr) {
    call.c.k.add_bias(call.c.pool, {.bias = call.small().down_bias,
                                    .y = call.a.h,
                                    .rows = call.rows(),
                                    .n = hidden,
                                    .y_stride = hidden});
  }
  call.c.k.add(call.c.pool, {.x = call.a.h, .y = call.a.x, .count = call.rows() * hidden});
}

}  // namespace

void activate(const Call& call, uint64_t rows) {
  const uint64_t n = call.config.intermediate_size;
  const SmallTensors& w = call.small();
  if (w.gate_bias != nullptr) {
    call.c.k.add_bias(call.c.pool, {w.gate_bias, call.a.gate, rows, n, n});
    call.c.k.add_bias(call.c.pool, {w.up_bias, call.a.up, rows, n, n});
  }
  call.c.k.activate(call.c.pool, {.function = kernels::Activation::kSilu,
                                  .gate = call.a.gate,
                                  .up = call.a.up,
                                  .out = call.a.gate,  // [rows, intermediate]
                                  .rows = rows,
                                  .n = n,
                                  .gate_stride = n,
                                  .up_stride = n});
}

Product gate_up_product(const Call& call) {
  return {.begin = gate_up_begin,
          .end = gate_up_end,
          .x = input_of(call, call.a.h, call.a.narrow),
          .m = call.rows(),
          .y = {call.a.gate, call.a.up}};
}

// Writes over h: the norm that it held was consumed by gate and up.
Product down_product(const Call& call) {
  return {.begin = down_begin,
          .end = down_end,
          .x = input_of(call, call.a.gate, call.a.narrow),
          .m = call.rows(),
          .y = {call.a.h}};
}

}  // namespace headrace::models
