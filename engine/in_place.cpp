#include "engine/in_place.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "engine/convert.h"
#include "swap/in_place.h"
#include "swap/pager.h"

namespace headrace::engine {

namespace {

using models::ChunkLayout;
using models::ObjectLayout;
using models::Part;
using models::Piece;

const TensorInfo& tensor_of(const SafetensorsFolder& files, const Part& part) {
  const TensorInfo* const tensor = find_tensor(files, part);
  HEADRACE_ASSERT(tensor != nullptr, part.tensor);
  return *tensor;
}

swap::FileSpan span_of(const SafetensorsFolder& files, const Part& part, const Piece& piece) {
  const TensorInfo& tensor = tensor_of(files, part);
  const SourceRows rows = source_rows(part, piece, tensor);
  return {.file = tensor.file, .offset = rows.offset, .bytes = rows.bytes};
}

std::vector<swap::FileSpan> spans_of(const SafetensorsFolder& files, const ObjectLayout& object,
                                     const ChunkLayout& chunk) {
  std::vector<swap::FileSpan> spans;
  for (const Piece& piece : chunk.pieces) {
    spans.push_back(span_of(files, object.parts[piece.part], piece));
  }
  return spans;
}

// A piece is read as one span.
void check_order(const SafetensorsFolder& files, const models::WeightLayout& layout) {
  for (const ObjectLayout& object : layout.objects) {
    for (const Part& part : object.parts) {
      if (is_contiguous(part)) continue;
      const std::string& path = files.files[tensor_of(files, part).file].path;
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("--store none: tensor {} of {} holds rows of several matrices in "
                              "turns, or columns for rows; give a folder for a store",
                              part.tensor, path))
          .at_path(path)
          .at_field("--store");
    }
  }
}

// Values are packed where they lie in what was read, so they must lie as their type asks.
void check_alignment(const SafetensorsFolder& files, const models::WeightLayout& layout) {
  models::for_each_tensor(layout, [&](const Part& part) {
    const TensorInfo& tensor = tensor_of(files, part);
    if (tensor.offset % size_of(tensor.dtype) == 0) return;
    const std::string& path = files.files[tensor.file].path;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("--store none: tensor {} begins at byte {} of {}, not at a multiple of "
                            "its {} bytes; give a folder for a store",
                            part.tensor, tensor.offset, path, size_of(tensor.dtype)))
        .at_path(path)
        .at_field("--store");
  });
}

}  // namespace

void plan_in_place(scheduler::Workload& workload, const models::WeightLayout& layout,
                   const SafetensorsFolder& files, Bytes bytes_in_flight) {
  check_order(files, layout);
  check_alignment(files, layout);
  workload.reads.clear();
  Bytes most = kBlock;
  for (ObjectId id = 0; id < layout.objects.size(); ++id) {
    std::vector<Bytes>& reads = workload.reads.emplace_back();
    for (const ChunkLayout& chunk : layout.objects[id].chunks) {
      reads.push_back(swap::aligned_bytes(spans_of(files, layout.objects[id], chunk)));
      most = std::max(most, reads.back());
    }
  }
  workload.needs.io += round_up(swap::unpacking_room(most, bytes_in_flight), kHugePage);
}

std::unique_ptr<swap::Store> open_in_place(const ModelFolder& folder,
                                           const SafetensorsFolder& files,
                                           const models::WeightLayout& layout,
                                           const kernels::Kernels& k) {
  swap::InPlaceSpec spec{.folder = folder.path, .fingerprint = fingerprint(folder)};
  for (const SafetensorsFile& file : files.files) {
    spec.files.push_back({.path = file.path,
                          .bytes = file.size,
                          .mtime_ns = file.mtime_ns,
                          .ctime_ns = file.ctime_ns});
  }
  for (const ObjectLayout& object : layout.objects) {
    auto& chunks = spec.objects.emplace_back();
    for (const ChunkLayout& chunk : object.chunks) {
      chunks.push_back({.bytes = chunk.bytes, .spans = spans_of(files, object, chunk)});
    }
  }
  std::vector<DType> types;  // by object, then part: what the files hold
  std::vector<size_t> first_type;
  for (const ObjectLayout& object : layout.objects) {
    first_type.push_back(types.size());
    for (const Part& part : object.parts) types.push_back(tensor_of(files, part).dtype);
  }
  spec.make = [&layout, &k, types = std::move(types), first_type = std::move(first_type)](
                  ObjectId id, uint32_t c, std::span<const std::byte* const> spans,
                  std::byte* target) {
    const ObjectLayout& object = layout.objects[id];
    const ChunkLayout& chunk = object.chunks[c];
    Bytes filled = 0;  // what no piece covers is zero
    for (size_t i = 0; i < chunk.pieces.size(); ++i) {
      const Piece& piece = chunk.pieces[i];
      std::memset(target + filled, 0, piece.offset - filled);
      convert_piece(k, object.parts[piece.part], piece, types[first_type[id] + piece.part],
                    spans[i], target + piece.offset);
      filled = piece.offset + piece.bytes;
    }
    std::memset(target + filled, 0, chunk.bytes - filled);
  };
  return swap::open_in_place(std::move(spec));
}

}  // namespace headrace::engine
