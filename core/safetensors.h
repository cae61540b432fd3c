// Strict reader of safetensors: one file, or the shards named by model.safetensors.index.json.
// Parses headers only; tensor bytes are read by whoever needs them, by offset.
//
// Hostile until proven otherwise (notes in docs/format/safetensors.md): header at most 16 MiB, at
// most one million tensors, rank at most 8, a dimension below 2^48, names at most 512 bytes of
// valid UTF-8 without control characters; offsets must cover the data section exactly, in some
// order, without overlap and without holes; each tensor's bytes must equal the product of its shape
// and its type; duplicate keys are refused; shard names are plain file names inside the folder; the
// index and the shards must name the same tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/tier.h"

namespace headrace {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  uint32_t file = 0;  // index into SafetensorsFolder::files
  Bytes offset = 0;   // from the start of the file, not of the data section
  Bytes bytes = 0;
};

struct SafetensorsFile {
  std::string path;
  Bytes size = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;        // tells a change even when modification times were kept
  uint64_t header_digest = 0;  // XXH3 of the header's bytes
  Bytes header_bytes = 0;      // the 8-byte length included
};

struct SafetensorsFolder {
  std::vector<SafetensorsFile> files;
  std::vector<TensorInfo> tensors;  // sorted by name
  const TensorInfo* find(std::string_view name) const;
};

// Parses one file's header given its bytes and the file's size. Throws kFormat naming `path`.
std::vector<TensorInfo> parse_safetensors_header(std::string_view header_json, Bytes header_bytes,
                                                 Bytes file_size, const std::string& path);
// Opens `folder`/model.safetensors, or the shards of `folder`/model.safetensors.index.json.
SafetensorsFolder open_safetensors(const std::string& folder);

}  // namespace headrace
