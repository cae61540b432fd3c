// Both ends of a decoder: token ids to the residual stream, and its last state to logits. With
// tied weights both read the same panels.
#include "models/block.h"

namespace headrace::models {

namespace {

// Only rows whose logits are wanted pay for the final norm and the largest product of all.
void head_begin(const Call& call) {
  const uint64_t hidden = call.config.hidden_size;
  const uint64_t outputs = call.pass.output_rows.size();
  if (outputs == 0) return;
  call.c.k.gather_rows(call.c.pool, {.in = call.a.x,  // [M, hidden]
                                     .index = call.pass.output_rows.data(),
                                     .out = call.a.head_in,  // [O, hidden]
                                     .count = outputs,
                                     .k = hidden});
  call.c.k.rms_norm(call.c.pool, {.x = call.a.head_in,
                                  .weight = call.tables.final_norm,
                                  .y = call.a.head_in,
                                  .rows = outputs,
                                  .k = hidden,
                                  .x_stride = hidden,
                                  .y_stride = hidden,
                                  .eps = call.config.rms_norm_eps});
  narrow_input(call, call.a.head_in, outputs, hidden, call.a.head_narrow);
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
  }
}

Product head_product(const Call& call) {
  return {.begin = head_begin,
          .x = input_of(call, call.a.head_in, call.a.head_narrow),
          .m = call.pass.output_rows.size(),
          .y = {call.pass.logits}};
}

}  // namespace headrace::models
