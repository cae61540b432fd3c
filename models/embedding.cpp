// Both ends of a decoder: token ids to the residual stream, and its last state to logits. With
// tied weights both read the same panels.
#include "models/block.h"

namespace headrace::models {

namespace {

void head_begin(const Call& call) {
  if (!call.a.only_outputs) keep_output_rows(call);
  const uint64_t hidden = call.config.hidden_size;
  if (call.config.block.final_norm) {
    norm(call, call.tables.final_small, Role::kFinalNorm,
         {call.a.x, call.a.x, call.rows(), hidden});
  }
  narrow_input(call, call.a.x, call.rows(), hidden, call.a.narrow);
}

void head_end(const Call& call) {
  const uint64_t count = call.rows() * call.config.vocab_size;
  if (call.config.logit_softcap == 0) return;
  call.c.k.softcap(call.c.pool, {call.pass.logits, count, call.config.logit_softcap});
}

// What is done to a row of the embedding before the first block.
void finish_row(const Call& call, uint64_t m) {
  const ModelConfig& g = call.config;
  float* x = call.a.x + m * g.hidden_size;  // [hidden]
  if (g.scale_embedding) {
    call.c.k.scale(call.c.pool, {x, g.hidden_size, call.tables.embedding_scale});
  }
  if (g.positions != Positions::kLearned) return;
  const uint64_t row = static_cast<uint64_t>(call.pass.positions[m]) + g.position_offset;
  float* position = call.a.h + m * g.hidden_size;  // [hidden]
  call.c.k.widen({.in = call.tables.positions + row * g.hidden_size * size_of(g.dtype),
                  .type = g.dtype,
                  .count = g.hidden_size,
                  .out = position});
  call.c.k.add(call.c.pool, {.x = position, .y = x, .count = g.hidden_size});
}

}  // namespace

void look_up(const Call& call, const ObjectLayout& embedding, uint32_t chunk,
             const std::byte* data) {
  const Part& part = embedding.parts.front();
  const Piece& piece = embedding.chunks[chunk].pieces.front();
  const uint64_t hidden = call.config.hidden_size;
  for (uint64_t m = 0; m < call.rows(); ++m) {
    const uint64_t token = static_cast<uint64_t>(call.pass.tokens[m]);
    if (token < piece.row_begin || token >= piece.row_end) continue;
    const uint64_t row = token - piece.row_begin;
    float* out = call.a.x + m * hidden;  // [hidden]
    if (part.form == Form::kRows) {
      const std::byte* in = data + piece.offset + row * hidden * size_of(part.dtype);
      call.c.k.widen({.in = in, .type = part.dtype, .count = hidden, .out = out});
    } else {
      const Bytes panel = kernels::panel_bytes(part.dtype, hidden);
      call.c.k.unpack_row({.panels = data + piece.offset + row / kernels::kPanelRows * panel,
                           .type = part.dtype,
                           .k = hidden,
                           .lane = static_cast<uint32_t>(row % kernels::kPanelRows),
                           .out = out});
    }
    finish_row(call, m);
  }
}

Product head_product(const Call& call) {
  return {.begin = head_begin,
          .end = head_end,
          .x = input_of(call, call.a.x, call.a.narrow),
          .m = call.pass.output_rows.size(),
          .y = {call.pass.logits}};
}

}  // namespace headrace::models
