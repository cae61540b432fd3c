// From a tensor's rows as a checkpoint has them to a chunk's bytes: shared by making a store and by
// running without one.
#pragma once

#include "core/safetensors.h"
#include "kernels/table.h"
#include "models/weights.h"

namespace headrace::engine {

// Whether any rows of the part lie together in its tensor, as they are.
bool is_contiguous(const models::Part& part);

struct SourceRows {  // of a piece, in its tensor's file
  Bytes offset = 0, bytes = 0;
};
// Of a contiguous part.
SourceRows source_rows(const models::Part& part, const models::Piece& piece,
                       const TensorInfo& tensor);

// Puts a piece's rows, which are of type `source` and aligned for it, at `out` in the form that
// chunks have them in. All of the piece's bytes are written.
void convert_piece(const kernels::Kernels& k, const models::Part& part, const models::Piece& piece,
                   DType source, const std::byte* rows, std::byte* out);

}  // namespace headrace::engine
