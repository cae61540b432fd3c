// Mixture of experts: the router chooses, each chosen expert computes its rows, and the parts are
// added in rank order, so that the order in which experts arrive leaves no trace in the bits.
#include <cstring>

#include "core/error.h"
#include "models/block.h"

namespace headrace::models {

namespace {

enum ExpertPart : uint32_t { kGate, kUp, kDown };  // in the order of weights.cpp

// Lists the rows that chose `expert` and where each one's part belongs.
uint64_t list_rows(const Call& call, uint32_t expert) {
  const uint64_t ranks = call.config.experts_per_token;
  uint64_t count = 0;
  for (uint64_t slot = 0; slot < call.rows() * ranks; ++slot) {
    if (call.a.expert[slot] != expert) continue;
    call.a.chosen_row[count] = static_cast<uint32_t>(slot / ranks);
    call.a.chosen_slot[count] = static_cast<uint32_t>(slot);
    ++count;
  }
  return count;
}

// y [M, n] = the half's input times a matrix among the small tensors.
void small_product(const Call& call, Role matrix, uint64_t n, float* y) {
  call.c.k.matmul(call.c.pool, {.x = input_of(call, half_input(call), call.a.narrow),
                                .w = call.small().panels(matrix),
                                .w_type = call.config.dtype,
                                .m = call.rows(),
                                .k = call.config.hidden_size,
                                .n = n,
                                .y = y,
                                .y_stride = n});
}

}  // namespace

void choose_experts(const Call& call) {
  const ModelConfig& g = call.config;
  begin_half(call, Role::kFfnNorm);
  small_product(call, Role::kRouter, g.experts, call.a.router_logits);                    // [M, E]
  if (g.shared_size != 0) small_product(call, Role::kSharedGate, 1, call.a.shared_gate);  // [M]
  call.c.k.topk_route({.logits = call.a.router_logits,
                       .expert = call.a.expert,         // [M, R]
                       .weight = call.a.expert_weight,  // [M, R]
                       .rows = call.rows(),
                       .experts = g.experts,
                       .k = g.experts_per_token,
                       .renormalise = g.renormalise_routing});
}

void run_expert(const Call& call, const ObjectLayout& object, uint32_t expert,
                std::span<const std::byte* const> data) {
  const ModelConfig& g = call.config;
  const uint64_t rows = list_rows(call, expert);
  if (rows == 0) return;
  call.c.k.gather_rows(call.c.pool, {.in = half_input(call),
                                     .index = call.a.chosen_row,
                                     .out = call.a.gathered,  // [rows, hidden]
                                     .count = rows,
                                     .k = g.hidden_size});
  narrow_input(call, call.a.gathered, rows, g.hidden_size, call.a.narrow);
  const Product in{.x = input_of(call, call.a.gathered, call.a.narrow),
                   .m = rows,
                   .y = {call.a.gate, call.a.up}};
  // The outputs go over the inputs: gate and up are complete before the first row of down.
  const Product out{.x = input_of(call, call.a.gate, call.a.narrow),
                    .m = rows,
                    .y = {nullptr, nullptr, call.a.gathered}};
  bool activated = false;
  for (uint32_t i = 0; i < data.size(); ++i) {
    for (const Piece& piece : object.chunks[i].pieces) {
      if (piece.part == kDown && !activated) {
        activate(call, rows, g.expert_size);
        narrow_input(call, call.a.gate, rows, g.expert_size, call.a.narrow);
        activated = true;
      }
      multiply(call, object, piece, data[i], piece.part == kDown ? out : in);
    }
  }
  for (uint64_t i = 0; i < rows; ++i) {
    std::memcpy(call.a.part + call.a.chosen_slot[i] * g.hidden_size,
                call.a.gathered + i * g.hidden_size, g.hidden_size * sizeof(float));
  }
}

void combine_experts(const Call& call) {
  const ModelConfig& g = call.config;
  call.c.k.combine(call.c.pool, {.part = call.a.part,             // [M, R, hidden]
                                 .weight = call.a.expert_weight,  // [M, R]
                                 .y = call.a.x,                   // [M, hidden]
                                 .rows = call.rows(),
                                 .ranks = g.experts_per_token,
                                 .k = g.hidden_size});
  if (g.shared_size == 0) return;
  call.c.k.add_gated(call.c.pool, {.part = call.a.shared,       // [M, hidden]
                                   .gate = call.a.shared_gate,  // [M]
                                   .y = call.a.x,               // [M, hidden]
                                   .rows = call.rows(),
                                   .k = g.hidden_size});
}

}  // namespace headrace::models
