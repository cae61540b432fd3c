// The feed-forward of a block: norm, gate and up, activation(gate) * up, down, residual. The expert
// that every row of a mixture takes is one that adds nothing by itself.
#include "models/block.h"

namespace headrace::models {

namespace {

void gate_up_begin(const Call& call) {
  begin_half(call, call.config.block.one_norm ? Role::kAttentionNorm : Role::kFfnNorm);
}

void gate_up_end(const Call& call) {
  const uint64_t n = call.config.intermediate_size;
  add_bias(call, Role::kGateBias, call.a.gate, n);
  if (call.a.up != nullptr) add_bias(call, Role::kUpBias, call.a.up, n);
  activate(call, call.rows(), n);
}

void down_begin(const Call& call) {
  narrow_input(call, call.a.gate, call.rows(), call.config.intermediate_size, call.a.narrow);
}

void down_end(const Call& call) {
  end_half(call, call.a.h,
           {.bias = Role::kDownBias,
            .out_norm = Role::kFfnOutNorm,
            .sum_norm = Role::kFfnNorm,
            .last = true});
}

void shared_gate_up_end(const Call& call) { activate(call, call.rows(), call.config.shared_size); }

void shared_down_begin(const Call& call) {
  narrow_input(call, call.a.gate, call.rows(), call.config.shared_size, call.a.narrow);
}

}  // namespace

void activate(const Call& call, uint64_t rows, uint64_t n) {
  call.c.k.activate(call.c.pool, {.function = call.config.block.activation,
                                  .gate = call.a.gate,
                                  .up = call.a.up,
                                  .out = call.a.gate,  // [rows, n]
                                  .rows = rows,
                                  .n = n,
                                  .gate_stride = n,
                                  .up_stride = n});
}

Product gate_up_product(const Call& call) {
  return {.begin = gate_up_begin,
          .end = gate_up_end,
          .x = input_of(call, half_input(call), call.a.narrow),
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

Product shared_gate_up_product(const Call& call) {
  Product product = gate_up_product(call);
  product.end = shared_gate_up_end;
  return product;
}

Product shared_down_product(const Call& call) {
  Product product = down_product(call);
  product.begin = shared_down_begin;
  product.end = nullptr;
  product.y = {call.a.shared};
  return product;
}

}  // namespace headrace::models
