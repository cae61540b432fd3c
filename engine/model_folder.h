// A Hugging Face folder as the engine sees it: config, tokenizer, safetensors, and the fingerprint
// that tells whether a prepared store still belongs to it. The folder is never written to.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "core/tier.h"
#include "models/config.h"
#include "models/weights.h"

namespace headrace::engine {

struct SourceFile {  // a file whose change must be noticed; found by stat alone
  std::string name;  // inside the folder
  Bytes size = 0;
  int64_t mtime_ns = 0, ctime_ns = 0;
};

struct ModelFolder {
  std::string path;                 // absolute
  std::string name;                 // last component: what reports call the model
  models::ModelConfig config;       // dtype as config.json says; see adopt_dtype
  std::vector<SourceFile> sources;  // config.json and every *.safetensors, by name
  std::optional<json::object> generation_config;
};

// Reads config.json and generation_config.json and stats the shards; reads no byte of them.
ModelFolder open_model(const std::string& path);

// Text that changes whenever the weights, the config, the layout or the store's version do.
std::string fingerprint(const ModelFolder& folder);
// Default folder name of its store: "<name>-<16 hex digits of the path's hash>".
std::string store_key(const ModelFolder& folder);

bool is_weight_dtype(DType type);  // float32, bfloat16, float16

// The tensor that a part is, or is a slice of; nullptr: none. Files that hold the model without its
// head leave out the first word of its names.
const TensorInfo* find_tensor(const SafetensorsFolder& files, const models::Part& part);

// Opens the shards and checks that every tensor of the layout is there with the right shape, in a
// precision of weights. The stored one is that of the files' matrices, which must agree on it.
// Sets folder.config.dtype accordingly. Throws kFormat, kUnsupported.
SafetensorsFolder open_weights(ModelFolder& folder);
void check_tensors(const SafetensorsFolder& files, const models::WeightLayout& layout,
                   const std::string& folder);

}  // namespace headrace::engine
