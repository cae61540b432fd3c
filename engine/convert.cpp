#include "engine/convert.h"

#include <cstring>

namespace headrace::engine {

using models::Form;
using models::Part;
using models::Piece;

bool is_contiguous(const Part& part) {
  const uint64_t rows = part.form == Form::kVector ? part.k : part.rows;
  return !part.transposed && (part.slice.total == 0 || part.slice.run >= rows);
}

SourceRows source_rows(const Part& part, const Piece& piece, const TensorInfo& tensor) {
  const Bytes element = size_of(tensor.dtype), row = part.k * element;
  if (part.form == Form::kVector) {
    return {.offset = tensor.offset + part.slice.first * element, .bytes = row};
  }
  return {.offset = tensor.offset + (part.slice.first + piece.row_begin) * row,
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
    case Form::kVector: {
      float* values = reinterpret_cast<float*>(out);
      k.widen({.in = rows, .type = source, .count = part.k, .out = values});
      for (uint64_t i = 0; part.add_one && i < part.k; ++i) values[i] += 1.0f;
      return;
    }
  }
}

}  // namespace headrace::engine
