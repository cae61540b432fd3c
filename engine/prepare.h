// From a model folder to a sealed store, streaming: the model is never held, a few chunks are.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/model_folder.h"
#include "kernels/table.h"
#include "models/weights.h"
#include "swap/store.h"

namespace headrace::engine {

struct PrepareReport {
  Bytes bytes_read = 0, bytes_written = 0;
  uint64_t tensors = 0;  // transformed; 0 when the store was used as it is
};

using Progress = std::function<void(Bytes done, Bytes total)>;

// Makes the store of `folder` in `store_path`, replacing what is there. Error(kInfeasible) when the
// store needs more disk than `limit`, if there is one.
PrepareReport prepare(const ModelFolder& folder, const SafetensorsFolder& files,
                      const models::WeightLayout& layout, const std::string& store_path,
                      std::optional<Bytes> limit, const kernels::Kernels& k,
                      const Progress& progress);

// kInfeasible where a store of `bytes` is more than --disk-memory.
void check_disk_memory(Bytes bytes, std::optional<Bytes> limit);
// What the store of `folder` will take on disk.
Bytes prepared_bytes(const ModelFolder& folder, const SafetensorsFolder& files);

// What a store says of itself: the stored precision, needed before the layout can be known.
std::string store_metadata(const ModelFolder& folder, const SafetensorsFolder& files);
DType stored_dtype(const swap::Store& store);

}  // namespace headrace::engine
