// `--store none`: weights read from the model's own shards, where they lie, and packed on arrival.
// Nothing is written and there is no second copy; each read pays for whole blocks at both ends of a
// tensor's rows, and for packing them every time.
#pragma once

#include <memory>
#include <string_view>

#include "engine/model_folder.h"
#include "kernels/table.h"
#include "models/weights.h"
#include "scheduler/workload.h"
#include "swap/store.h"

namespace headrace::engine {

// What `--store` says for it.
inline constexpr std::string_view kStoreNone = "none";

// Tells the workload what reading each chunk moves, and what memory its arrival takes. Throws
// kUnsupported naming the family where tensors do not lie as rows that can be packed as they come.
void plan_in_place(scheduler::Workload& workload, const models::WeightLayout& layout,
                   const SafetensorsFolder& files, Bytes bytes_in_flight);

// The shards as a store. `layout` and `k` must outlive it. Throws kIo, kFailed.
std::unique_ptr<swap::Store> open_in_place(const ModelFolder& folder,
                                           const SafetensorsFolder& files,
                                           const models::WeightLayout& layout,
                                           const kernels::Kernels& k);

}  // namespace headrace::engine
