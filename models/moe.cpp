// Mixture of experts: the router chooses, each chosen expert computes its rows, and the parts are
// added in rank order, so that the order in which experts arrive leaves no trace in the bits.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "models/block.h"

namespace headrace::models {

namespace {

enum ExpertPart : uint32_t { kGate, kUp, kDown };  // in the order of weights.cpp

// Lists the rows that chose `expert`, and where each one's part belongs, from `begin` on; how many.
uint64_t list_rows(const Call& call, uint32_t expert, uint64_t begin) {
  const uint64_t ranks = call.config.experts_per_token;
  uint64_t count = 0;
  for (uint64_t slot = 0; slot < call.rows() * ranks; ++slot) {
    if (call.a.expert[slot] != expert) continue;
    if (begin + count == call.a.chosen_max) return count + 1;  // no room for all
    call.a.chosen_row[begin + count] = static_cast<uint32_t>(slot / ranks);
    call.a.chosen_slot[begin + count] = static_cast<uint32_t>(slot);
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

namespace {

constexpr size_t kTogether = 32;  // experts

struct Group {
  std::array<uint64_t, kTogether + 1> row{};  // of each expert's first; the last is their number
  size_t experts = 0;
  uint64_t rows() const { return row[experts]; }
};

Group choose_group(const Call& call, const Experts& experts) {
  Group group;
  while (group.experts < std::min(kTogether, experts.wanted.size())) {
    const uint64_t begin = group.rows();
    const uint64_t rows = list_rows(call, experts.wanted[group.experts].expert, begin);
    if (begin + rows > call.a.chosen_max) break;
    group.row[++group.experts] = begin + rows;
  }
  return group;
}

// y = x * the parts of each expert for which `is_wanted`, for the rows that chose it.
template <typename Wanted>
void multiply_group(const Call& call, const Experts& experts, const Group& group,
                    const Product& all, uint64_t k, const Wanted& is_wanted) {
  const bool narrows = call.config.dtype == DType::kBF16;
  const Bytes x_row = narrows ? (k + 1) / 2 * 2 * sizeof(uint16_t) : k * sizeof(float);
  Products products(call);
  for (size_t e = 0; e < group.experts; ++e) {
    const ExpertData& expert = experts.wanted[e];
    const ObjectLayout& object = experts.object(expert);
    const uint64_t row = group.row[e];
    Product product = all;
    product.x = static_cast<const std::byte*>(all.x) + row * x_row;
    product.m = group.row[e + 1] - row;
    for (uint32_t part = 0; part < object.parts.size(); ++part) {
      if (product.y[part] != nullptr) product.y[part] += row * object.parts[part].rows;
    }
    for (size_t i = 0; i < expert.chunks.size(); ++i) {
      for (const Piece& piece : object.chunks[i].pieces) {
        if (is_wanted(piece.part)) products.add(object, piece, expert.chunks[i], product);
      }
    }
  }
  products.run();
}

}  // namespace

size_t run_experts(const Call& call, const Experts& experts) {
  const ModelConfig& g = call.config;
  const Group group = choose_group(call, experts);
  HEADRACE_ASSERT(group.experts > 0, "room for the rows of one expert");
  const uint64_t rows = group.rows();
  if (rows == 0) return group.experts;
  call.c.k.gather_rows(call.c.pool, {.in = half_input(call),
                                     .index = call.a.chosen_row,
                                     .out = call.a.gathered,  // [rows, hidden]
                                     .count = rows,
                                     .k = g.hidden_size});
  narrow_input(call, call.a.gathered, rows, g.hidden_size, call.a.narrow);
  const Product in{.x = input_of(call, call.a.gathered, call.a.narrow),
                   .y = {call.a.gate, call.a.up}};
  multiply_group(call, experts, group, in, g.hidden_size,
                 [](uint32_t part) { return part != kDown; });
  activate(call, rows, g.expert_size);
  narrow_input(call, call.a.gate, rows, g.expert_size, call.a.narrow);
  // The outputs go over the inputs: gate and up are complete before the first row of down.
  const Product out{.x = input_of(call, call.a.gate, call.a.narrow),
                    .y = {nullptr, nullptr, call.a.gathered}};
  multiply_group(call, experts, group, out, g.expert_size,
                 [](uint32_t part) { return part == kDown; });
  for (uint64_t i = 0; i < rows; ++i) {
    std::memcpy(call.a.part + call.a.chosen_slot[i] * g.hidden_size,
                call.a.gathered + i * g.hidden_size, g.hidden_size * sizeof(float));
  }
  return group.experts;
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
