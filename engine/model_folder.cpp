#include "engine/model_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "swap/store.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

constexpr const char* kLayoutId = "panels16-v1";  // kernels/args.h; part of every fingerprint

SourceFile stat_file(const fs::path& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) {
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot be read: {}; check the path", path.string(),
                                            std::strerror(errno)))
        .at_path(path.string());
  }
  return {.name = path.filename().string(),
          .size = static_cast<Bytes>(s.st_size),
          .mtime_ns = s.st_mtim.tv_sec * 1'000'000'000 + s.st_mtim.tv_nsec,
          .ctime_ns = s.st_ctim.tv_sec * 1'000'000'000 + s.st_ctim.tv_nsec};
}

}  // namespace

bool is_weight_dtype(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
}

ModelFolder open_model(const std::string& path) {
  std::error_code ignored;
  const fs::path root = fs::weakly_canonical(path, ignored);
  if (!fs::is_directory(root)) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: no such model folder; give a folder with config.json and "
                            "*.safetensors, or make one with `headrace synth`",
                            path))
        .at_path(path);
  }
  ModelFolder folder;
  folder.path = root.string();
  folder.name = root.filename().string();
  folder.config = models::read_config((root / "config.json").string());
  folder.sources.push_back(stat_file(root / "config.json"));
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name == "model.safetensors.index.json") {
      folder.sources.push_back(stat_file(entry.path()));
    }
  }
  std::sort(folder.sources.begin(), folder.sources.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.name < b.name; });
  const fs::path generation = root / "generation_config.json";
  if (fs::exists(generation)) {
    const json::value value = read_json(generation.string());
    if (!value.is_object()) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: not a JSON object; mend or remove it", generation.string()))
          .at_path(generation.string());
    }
    folder.generation_config = value.as_object();
  }
  return folder;
}

std::string fingerprint(const ModelFolder& folder) {
  std::string text =
      fmt::format("store {} layout {} source {}\n", swap::kStoreVersion, kLayoutId, folder.path);
  for (const SourceFile& file : folder.sources) {
    text += fmt::format("{} {} {} {}\n", file.name, file.size, file.mtime_ns, file.ctime_ns);
  }
  return fmt::format("{:016x}", digest64(text));
}

std::string store_key(const ModelFolder& folder) {
  return fmt::format("{}-{:016x}", folder.name,
                     digest64(fmt::format("{}\n{}", kLayoutId, folder.path)));
}

const TensorInfo* find_tensor(const SafetensorsFolder& files, const models::Part& part) {
  if (const TensorInfo* tensor = files.find(part.tensor)) return tensor;
  if (!part.also.empty()) {
    if (const TensorInfo* tensor = files.find(part.also)) return tensor;
  }
  return files.find(part.tensor.substr(part.tensor.find('.') + 1));
}

SafetensorsFolder open_weights(ModelFolder& folder) {
  SafetensorsFolder files = open_safetensors(folder.path);
  const models::WeightLayout layout = models::layout_of(folder.config);
  std::optional<DType> stored;
  models::for_each_tensor(layout, [&](const models::Part& part) {
    const TensorInfo* tensor = find_tensor(files, part);
    if (tensor == nullptr) return;
    const bool vector = part.form == models::Form::kVector;  // widened, whatever it was
    const bool other = !vector && stored && *stored != tensor->dtype;
    if (!is_weight_dtype(tensor->dtype) || other) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {} is stored as {}; {}", folder.path, part.tensor,
                              name_of(tensor->dtype),
                              vector ? "norms and biases must be float32, bfloat16 or float16"
                                     : "all matrices must be float32, or all bfloat16, or all "
                                       "float16"))
          .at_path(folder.path)
          .at_field(part.tensor);
    }
    if (!vector) stored = tensor->dtype;
  });
  if (stored) folder.config.dtype = *stored;
  check_tensors(files, models::layout_of(folder.config), folder.path);
  return files;
}

void check_tensors(const SafetensorsFolder& files, const models::WeightLayout& layout,
                   const std::string& folder) {
  models::for_each_tensor(layout, [&](const models::Part& part) {
    const TensorInfo* tensor = find_tensor(files, part);
    if (tensor == nullptr) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: tensor {} is missing; the download is incomplete or config.json "
                              "belongs to another model",
                              folder, part.tensor))
          .at_path(folder)
          .at_field(part.tensor);
    }
    const std::vector<uint64_t> expected = models::tensor_shape(part);
    if (tensor->shape != expected) {
      throw Error(
          ErrorCode::kFormat,
          fmt::format("{}: tensor {} has shape [{}], but config.json asks for [{}]; they do "
                      "not belong together",
                      folder, part.tensor, fmt::join(tensor->shape, ", "),
                      fmt::join(expected, ", ")))
          .at_path(folder)
          .at_field(part.tensor);
    }
  });
}

}  // namespace headrace::engine
