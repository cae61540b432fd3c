#include "engine/synth.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/digest.h"
#include "core/error.h"
#include "core/half.h"
#include "core/random.h"
#include "engine/tokenizer/synthetic.h"
#include "models/config.h"
#include "models/families.h"
#include "models/weights.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

constexpr Bytes kShardBytes = 2 * kGiB;
constexpr size_t kBatch = 1 << 16;  // values made at a time
constexpr double kDeviation = 0.02;

struct Tensor {
  std::string name;
  std::vector<uint64_t> shape;
  std::optional<float> value;  // of all elements; none: random
  Bytes bytes = 0;
  uint64_t values() const {
    uint64_t n = 1;
    for (uint64_t d : shape) n *= d;
    return n;
  }
};

std::vector<Tensor> tensors_of(const models::ModelConfig& config) {
  std::vector<Tensor> tensors;
  models::for_each_tensor(models::layout_of(config), [&](const models::Part& part) {
    Tensor t{.name = part.tensor, .shape = models::tensor_shape(part)};
    const bool norm = part.form == models::Form::kVector && part.tensor.ends_with(".weight");
    if (norm) t.value = part.add_one ? 0.0f : 1.0f;
    t.bytes = t.values() * size_of(config.dtype);
    tensors.push_back(t);
  });
  return tensors;
}

Bytes weight_bytes(const models::ModelConfig& config) {
  Bytes sum = 0;
  for (const Tensor& t : tensors_of(config)) sum += t.bytes;
  return sum;
}

// Inverse of the normal distribution's cumulative function (Acklam's rational approximation,
// relative error 1.2e-9): more than enough for a table of 65536 quantiles.
double normal_quantile(double p) {
  constexpr double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                          1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                          6.680131188771972e+01, -1.328068155288572e+01};
  constexpr double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                          -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                          3.754408661907416e+00};
  if (p > 0.5) return -normal_quantile(1 - p);
  if (p < 0.02425) {
    const double q = std::sqrt(-2 * std::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  const double q = p - 0.5, r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

// Values of one tensor in stored precision. A value takes 16 random bits: an index into the
// quantiles.
class Values {
 public:
  Values(DType dtype, uint64_t seed) : dtype_(dtype), seed_(seed), table_(65536) {
    for (size_t i = 0; i < table_.size(); ++i) {
      table_[i] =
          static_cast<float>(kDeviation * normal_quantile((static_cast<double>(i) + 0.5) / 65536));
    }
    room_.resize(kBatch * size_of(dtype));
  }

  // The bytes of values [first, first + count) of the tensor; first a multiple of 8.
  std::span<const std::byte> make(const Tensor& tensor, uint64_t first, size_t count) {
    const uint64_t stream = digest64(tensor.name);
    for (size_t i = 0; i < count; i += 8) {
      std::array<uint32_t, 4> bits{};
      if (!tensor.value) bits = philox(seed_, stream, (first + i) / 8);
      for (size_t j = 0; j < std::min<size_t>(8, count - i); ++j) {
        const uint32_t index = bits[j / 2] >> (j % 2 * 16) & 0xffff;
        put(i + j, tensor.value.value_or(table_[index]));
      }
    }
    return std::span(room_).first(count * size_of(dtype_));
  }

 private:
  void put(size_t at, float value) {
    const uint16_t half = dtype_ == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
    if (dtype_ == DType::kF32) {
      std::memcpy(room_.data() + at * 4, &value, 4);
    } else {
      std::memcpy(room_.data() + at * 2, &half, 2);
    }
  }
  DType dtype_;
  uint64_t seed_;
  std::vector<float> table_;
  std::vector<std::byte> room_;
};

std::string shard_header(const std::vector<Tensor>& tensors, size_t begin, size_t end,
                         DType dtype) {
  json::object header{{"__metadata__", json::object{{"format", "pt"}}}};
  Bytes offset = 0;
  for (size_t i = begin; i < end; ++i) {
    json::array shape;
    for (uint64_t d : tensors[i].shape) shape.push_back(d);
    header[tensors[i].name] =
        json::object{{"dtype", safetensors_name(dtype)},
                     {"shape", shape},
                     {"data_offsets", json::array{offset, offset + tensors[i].bytes}}};
    offset += tensors[i].bytes;
  }
  std::string text = to_text(header);
  text.resize(round_up(text.size(), 8), ' ');
  return text;
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  if (!file.flush()) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: writing failed; check the space on that disk", path.string()))
        .at_path(path.string());
  }
}

// Gives written pages back early: a machine-sized model must not fill the page cache.
void flush_pages(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

class Writer {
 public:
  Writer(DType dtype, uint64_t seed, Bytes total, const std::function<void(Bytes, Bytes)>& progress)
      : dtype_(dtype), values_(dtype, seed), total_(total), progress_(progress) {}

  void shard(const fs::path& path, const std::vector<Tensor>& tensors, size_t begin, size_t end) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    const std::string header = shard_header(tensors, begin, end, dtype_);
    const uint64_t length = header.size();
    file.write(reinterpret_cast<const char*>(&length), 8);
    file.write(header.data(), static_cast<std::streamsize>(header.size()));
    for (size_t i = begin; i < end; ++i) tensor(file, tensors[i]);
    if (!file.flush()) {
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: writing failed; check the space on that disk", path.string()))
          .at_path(path.string());
    }
    file.close();
    flush_pages(path);
  }

 private:
  void tensor(std::ofstream& file, const Tensor& t) {
    for (uint64_t first = 0; first < t.values(); first += kBatch) {
      const auto bytes = values_.make(t, first, std::min<uint64_t>(kBatch, t.values() - first));
      file.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
      done_ += bytes.size();
      if (progress_) progress_(done_, total_);
    }
  }
  DType dtype_;
  Values values_;
  Bytes done_ = 0, total_;
  const std::function<void(Bytes, Bytes)>& progress_;
};

models::ModelConfig checked(const json::object& config) {
  return models::parse_config(config, "synth");
}

int64_t whole_number(const json::object& config, const char* key) {
  const json::value* v = config.if_contains(key);
  return v != nullptr && v->is_number() ? v->to_number<int64_t>() : 0;
}

// Half the heads, but heads that divide the width into even parts, and key heads that divide them.
void halve_heads(json::object& config, const json::object& set, const models::FieldNames& names) {
  int64_t heads = whole_number(config, names.heads);
  if (!set.contains(names.heads) && heads > 1) {
    const int64_t hidden = whole_number(config, names.hidden);
    const bool own_width = whole_number(config, "head_dim") != 0;
    heads /= 2;
    while (heads > 1 && !own_width && hidden % (2 * heads) != 0) --heads;
    config[names.heads] = heads;
  }
  if (names.kv_heads == nullptr || set.contains(names.kv_heads)) return;
  int64_t keys = std::min(whole_number(config, names.kv_heads), heads);
  if (keys == 0) return;
  while (heads % keys != 0) --keys;
  config[names.kv_heads] = keys;
}

// Sets the number of layers (and, for models too small for their own width, the width) so that the
// weights come closest to `size`. What the user set stays.
void fit(json::object& config, const json::object& set, Bytes size) {
  const models::ModelConfig as_given = checked(config);
  const models::FieldNames& names = models::find_family(as_given.family)->fields;
  const auto bytes_with = [&](int64_t layers) {
    config[names.layers] = layers;
    return weight_bytes(checked(config));
  };
  const auto halve = [&](const char* key) {
    const int64_t value = whole_number(config, key);
    if (value != 0 && !set.contains(key)) config[key] = std::max<int64_t>(16, value / 2);
  };
  if (set.contains(names.layers)) {
    throw Error(ErrorCode::kUsage, "--size: the number of layers is set too; give one of them")
        .at_field("--size");
  }
  while (!set.contains(names.hidden) && bytes_with(2) > size &&
         whole_number(config, names.hidden) > 64) {
    for (const char* key : {names.hidden, names.intermediate, "vocab_size"}) halve(key);
    for (const char* key : {"moe_intermediate_size", "shared_expert_intermediate_size"}) halve(key);
    if (whole_number(config, "vocab_size") < 512) config["vocab_size"] = 512;
    halve_heads(config, set, names);
  }
  const Bytes one = bytes_with(1), two = bytes_with(2);
  const double layers =
      1 + (static_cast<double>(size) - static_cast<double>(one)) / static_cast<double>(two - one);
  bytes_with(std::clamp<int64_t>(std::llround(layers), 1, 1024));
}

// What is written so far; removed again when the model never gets whole.
class Unfinished {
 public:
  explicit Unfinished(fs::path folder) : folder_(std::move(folder)) {
    std::error_code failed;
    made_ = fs::create_directories(folder_, failed);
    if (!failed) return;
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot be made: {}; check the path",
                                            folder_.string(), failed.message()))
        .at_path(folder_.string());
  }
  ~Unfinished() {
    std::error_code ignored;
    for (const std::string& name : files_) fs::remove(folder_ / name, ignored);
    if (made_ && !kept_) fs::remove(folder_, ignored);
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  const fs::path& folder() const { return folder_; }
  fs::path file(const std::string& name) { return folder_ / files_.emplace_back(name); }
  void keep() { files_.clear(), kept_ = true; }

 private:
  fs::path folder_;
  std::vector<std::string> files_;
  bool made_ = false, kept_ = false;
};

// Where each shard ends: kShardBytes are passed by a single tensor at most.
std::vector<size_t> shard_ends(const std::vector<Tensor>& tensors) {
  std::vector<size_t> ends;
  Bytes filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (filled != 0 && filled + tensors[i].bytes > kShardBytes) ends.push_back(i), filled = 0;
    filled += tensors[i].bytes;
  }
  ends.push_back(tensors.size());
  return ends;
}

SynthReport write_model(Unfinished& made, const models::ModelConfig& model, json::object config,
                        uint64_t seed, const std::function<void(Bytes, Bytes)>& progress) {
  const std::vector<Tensor> tensors = tensors_of(model);
  const Bytes total = weight_bytes(model);
  if (const fs::space_info space = fs::space(made.folder()); space.available < total) {
    throw Error(
        ErrorCode::kIo,
        fmt::format("{}: {} of weights do not fit the {} that are free; give --size or "
                    "another folder",
                    made.folder().string(), format_bytes(total), format_bytes(space.available)))
        .at_path(made.folder().string());
  }
  const std::vector<size_t> ends = shard_ends(tensors);
  Writer writer(model.dtype, seed, total, progress);
  json::object map;
  for (size_t s = 0, begin = 0; s < ends.size(); begin = ends[s++]) {
    const std::string name =
        ends.size() == 1 ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, ends.size());
    for (size_t i = begin; i < ends[s]; ++i) map[tensors[i].name] = name;
    writer.shard(made.file(name), tensors, begin, ends[s]);
  }
  if (ends.size() > 1) {
    write_file(made.file("model.safetensors.index.json"),
               to_pretty(json::object{{"metadata", json::object{{"total_size", total}}},
                                      {"weight_map", map}}));
  }
  write_file(made.file("tokenizer.json"), synthetic_tokenizer_json(model.vocab_size, seed));
  write_file(made.file("tokenizer_config.json"), synthetic_tokenizer_config_json());
  config["bos_token_id"] = static_cast<int64_t>(model.vocab_size) - 2;
  config["eos_token_id"] = static_cast<int64_t>(model.vocab_size) - 1;
  write_file(made.file("generation_config.json"),
             to_pretty(json::object{{"bos_token_id", config["bos_token_id"]},
                                    {"eos_token_id", config["eos_token_id"]}}));
  // Last: without it the folder holds no model.
  write_file(made.file("config.json"), to_pretty(config));
  return {
      .weight_bytes = total, .layers = model.layers, .shards = static_cast<uint32_t>(ends.size())};
}

}  // namespace

SynthReport synthesize(const std::string& out, const SynthOptions& options,
                       const std::function<void(Bytes, Bytes)>& progress) {
  json::object config = options.config;
  if (config.empty()) {
    const models::Family* family = models::find_family(options.family);
    if (family == nullptr) {
      throw Error(ErrorCode::kUsage, fmt::format("--family: {} is unknown; give one of {}",
                                                 options.family, models::family_names()))
          .at_field("--family");
    }
    config = family->example();
  }
  for (const auto& item : options.set) config[item.key()] = item.value();
  config["dtype"] = options.dtype;
  config.erase("torch_dtype");
  if (options.size != 0) fit(config, options.set, options.size);
  const models::ModelConfig model = checked(config);
  const fs::path folder = out;
  if (fs::exists(folder / "config.json")) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: holds a model already; give another folder", out))
        .at_path(out);
  }
  Unfinished made(folder);
  const SynthReport report = write_model(made, model, config, options.seed, progress);
  made.keep();
  return report;
}

}  // namespace headrace::engine
