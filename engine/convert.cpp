#include "engine/convert.h"

#include <cstring>

namespace headrace::engine {

using models::Form;
using models::Part;
using models::Piece;

SourceRows source_rows(const Part& part, const Piece& piece, const TensorInfo& tensor) {
  const Bytes row = part.k * size_of(tensor.dtype);
  if (part.form == Form::kVector) return {.offset = tensor.offset, .bytes = row};
  return {.offset = tensor.offset + piece.row_begin * row,
          .bytes = (piece.row_end - piece.row_begin) * row};
}

void convert_piece(const kernels::Kernels& k, const Part& part, const Piece& piece, DType source,
                   const std::byte* rows, std::byte* out) {
  const uint64_t count = piece.row_end - piece.row_begin;
  switch (part.form) {
    case Form::kPanels:
      k.pack_panels({.rows = rows,
                     .type = part.dtype,
                     .k = part.k,
                     .count = static_cast<uint32_t>(count),
                     .panels = out});
      return;
    case Form::kRows:
      std::memcpy(out, rows, count * part.k * size_of(part.dtype));
      return;
    case Form::kVector:
      k.widen({.in = rows, .type = source, .count = part.k, .out = reinterpret_cast<float*>(out)});
      return;
  }
}

}  // namespace headrace::engine
