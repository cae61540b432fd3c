#include "core/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "core/checked.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "core/text.h"

namespace headrace {
namespace {

// The limits of docs/format/safetensors.md. Real headers are two orders of magnitude below each.
constexpr Bytes kHeaderMax = 16 * kMiB;
constexpr Bytes kIndexMax = 64 * kMiB;
constexpr size_t kTensorsMax = 1'000'000;
constexpr size_t kShardsMax = 10'000;
constexpr size_t kRankMax = 8;
constexpr size_t kNameMax = 512;
constexpr size_t kFileNameMax = 255;
constexpr uint64_t kDimensionEnd = uint64_t{1} << 48;
constexpr uint64_t kElementsMax = uint64_t{1} << 60;
constexpr Bytes kLengthBytes = 8;     // the header's length, little-endian, opens the file
constexpr unsigned kHeaderDepth = 3;  // root, tensor, shape
constexpr unsigned kIndexDepth = 8;   // its "metadata" is free-form
constexpr std::string_view kMetadataKey = "__metadata__";

constexpr std::string_view kOtherTypes[] = {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F4",  "F6_E2M3",
                                            "F6_E3M2", "U16",     "U32",     "U64", "C64"};

// Quoted and escaped: names come from the file and may hold anything.
std::string quoted(std::string_view text) {
  return json::serialize(json::string_view(text.data(), text.size()));
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(
      ErrorCode::kFormat,
      fmt::format("{}: {}; the file is damaged or not safetensors: fetch it again", path, why))
      .at_path(path);
}

[[noreturn]] void refuse_read(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kIo, fmt::format("{}: {}; check the path and its permissions", path, why))
      .at_path(path);
}

// C0, DEL and, in UTF-8, C1: they would corrupt whatever prints the name.
bool has_control_character(std::string_view name) {
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f) return true;
    if (byte == 0xc2 && i + 1 < name.size() && static_cast<unsigned char>(name[i + 1]) < 0xa0) {
      return true;
    }
  }
  return false;
}

// Reads the header's JSON as a stream of events, so that a header of many tensors costs no tree.
//   header := { ( "__metadata__": {text: text …} | name: tensor ) … }
//   tensor := { "dtype": text, "shape": [n …], "data_offsets": [begin, end] }   in any order
// Anything else throws at the event that breaks the rule.
class HeaderReader {
 public:
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  explicit HeaderReader(const std::string& path) : path_(path) {}

  // Sorted by name; `offset` counts from the start of the data section.
  std::vector<TensorInfo> take() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    const auto twice = std::adjacent_find(
        tensors_.begin(), tensors_.end(),
        [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
    if (twice != tensors_.end()) {
      refuse(path_, fmt::format("tensor {} appears twice", quoted(twice->name)));
    }
    return std::move(tensors_);
  }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }

  bool on_object_begin(json::error_code&) {
    if (at_ == At::kDocument) {
      at_ = At::kRoot;
    } else if (at_ == At::kRoot && key_ == kMetadataKey) {
      if (std::exchange(has_metadata_, true)) refuse(path_, "\"__metadata__\" appears twice");
      at_ = At::kMetadata;
    } else if (at_ == At::kRoot) {
      begin_tensor();
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool on_object_end(size_t, json::error_code&) {
    if (at_ == At::kTensor) end_tensor();
    if (at_ == At::kMetadata) end_metadata();
    at_ = at_ == At::kRoot ? At::kDocument : At::kRoot;
    return true;
  }

  bool on_array_begin(json::error_code&) {
    if (at_ != At::kTensor || (key_ != "shape" && key_ != "data_offsets")) unexpected("an array");
    at_ = key_ == "shape" ? At::kShape : At::kOffsets;
    return true;
  }
  bool on_array_end(size_t, json::error_code&) {
    if (at_ == At::kOffsets && offsets_ != 2) tensor_fault("\"data_offsets\" is not a pair");
    at_ = At::kTensor;
    return true;
  }

  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    if (std::exchange(key_ended_, false)) key_.clear();
    key_.append(part.data(), part.size());
    if (at_ != At::kMetadata && key_.size() > kNameMax) {
      refuse(path_, fmt::format("a name is longer than {} bytes", kNameMax));
    }
    return true;
  }
  bool on_key(json::string_view part, size_t n, json::error_code& ec) {
    on_key_part(part, n, ec);
    key_ended_ = true;
    if (at_ == At::kTensor) begin_field();
    if (at_ == At::kMetadata) metadata_keys_.push_back(key_);
    return true;
  }

  bool on_string_part(json::string_view part, size_t, json::error_code&) {
    const bool is_dtype = at_ == At::kTensor && key_ == "dtype";
    if (!is_dtype && at_ != At::kMetadata) unexpected("text");
    // The longest name of a type has seven letters; the values of metadata are not kept.
    if (is_dtype && text_.size() < kNameMax) text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, size_t n, json::error_code& ec) {
    on_string_part(part, n, ec);
    if (at_ == At::kTensor) set_dtype();
    return true;
  }

  bool on_number_part(json::string_view part, json::error_code&) {
    negative_ = negative_ || part.starts_with('-');
    return true;
  }
  bool on_int64(int64_t value, json::string_view part, json::error_code&) {
    if (value < 0 || negative_ || part.starts_with('-')) unexpected("a negative number");
    return set_number(static_cast<uint64_t>(value));
  }
  bool on_uint64(uint64_t value, json::string_view, json::error_code&) { return set_number(value); }
  bool on_double(double, json::string_view, json::error_code&) {
    return unexpected("a number that is not a 64-bit integer");
  }
  bool on_bool(bool, json::error_code&) { return unexpected("a truth value"); }
  bool on_null(json::error_code&) { return unexpected("null"); }
  bool on_comment_part(json::string_view, json::error_code&) { return unexpected("a comment"); }
  bool on_comment(json::string_view, json::error_code&) { return unexpected("a comment"); }

 private:
  enum class At : uint8_t { kDocument, kRoot, kMetadata, kTensor, kShape, kOffsets };
  enum Field : unsigned { kDType = 1, kShape = 2, kOffsets = 4, kAll = 7 };

  [[noreturn]] bool unexpected(const char* found) const {
    if (at_ == At::kDocument) refuse(path_, fmt::format("the header is {}", found));
    if (at_ == At::kRoot || at_ == At::kMetadata) {
      refuse(path_, fmt::format("{} is {}", quoted(key_), found));
    }
    tensor_fault(fmt::format("{} has {} where it must not", quoted(key_), found));
  }
  [[noreturn]] void tensor_fault(const std::string& why) const {
    refuse(path_, fmt::format("tensor {}: {}", quoted(tensor_.name), why));
  }

  void begin_tensor() {
    if (tensors_.size() == kTensorsMax) {
      refuse(path_, fmt::format("more than {} tensors", kTensorsMax));
    }
    tensor_ = TensorInfo{.name = key_};
    fields_ = 0;
    offsets_ = 0;
    if (key_.empty()) refuse(path_, "a tensor has no name");
    if (has_control_character(key_)) tensor_fault("its name has control characters");
    at_ = At::kTensor;
  }
  void begin_field() {
    const unsigned field = key_ == "dtype"          ? kDType
                           : key_ == "shape"        ? kShape
                           : key_ == "data_offsets" ? kOffsets
                                                    : 0u;
    if (field == 0) tensor_fault(fmt::format("unknown field {}", quoted(key_)));
    if ((fields_ & field) != 0) tensor_fault(fmt::format("{} appears twice", quoted(key_)));
    fields_ |= field;
  }
  void set_dtype() {
    const auto dtype = parse_dtype(text_);
    if (dtype && safetensors_name(*dtype) == text_) {
      tensor_.dtype = *dtype;
      text_.clear();
      return;
    }
    for (std::string_view other : kOtherTypes) {
      if (other != text_) continue;
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{}: tensor {} has the type {}, which is not supported; convert it to "
                      "BF16, F16 or F32",
                      path_, quoted(tensor_.name), other))
          .at_path(path_);
    }
    tensor_fault(fmt::format("unknown type {}", quoted(text_)));
  }
  bool set_number(uint64_t value) {
    negative_ = false;
    if (at_ == At::kShape) {
      if (tensor_.shape.size() == kRankMax) {
        tensor_fault(fmt::format("more than {} dimensions", kRankMax));
      }
      if (value >= kDimensionEnd) tensor_fault(fmt::format("a dimension of {}", value));
      tensor_.shape.push_back(value);
    } else if (at_ == At::kOffsets) {
      if (offsets_ == 2) tensor_fault("\"data_offsets\" is not a pair");
      (offsets_++ == 0 ? begin_ : end_) = value;
    } else {
      unexpected("a number");
    }
    return true;
  }
  void end_tensor() {
    if (fields_ != kAll) tensor_fault("\"dtype\", \"shape\" or \"data_offsets\" is missing");
    if (begin_ > end_) tensor_fault("its data end before they begin");
    const auto elements = checked_product(tensor_.shape);
    if (!elements || *elements > kElementsMax) tensor_fault("too many elements");
    const auto bytes = checked_mul(*elements, size_of(tensor_.dtype));
    if (!bytes || *bytes != end_ - begin_) {
      tensor_fault(fmt::format("{} bytes of data do not match its shape and type", end_ - begin_));
    }
    tensor_.offset = begin_;
    tensor_.bytes = *bytes;
    tensors_.push_back(std::move(tensor_));
  }
  void end_metadata() {
    std::sort(metadata_keys_.begin(), metadata_keys_.end());
    const auto twice = std::adjacent_find(metadata_keys_.begin(), metadata_keys_.end());
    if (twice != metadata_keys_.end()) {
      refuse(path_, fmt::format("metadata {} appears twice", quoted(shortened(*twice, kNameMax))));
    }
  }

  const std::string& path_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::string> metadata_keys_;
  TensorInfo tensor_;  // being read
  At at_ = At::kDocument;
  unsigned fields_ = 0;   // of tensor_, as bits of Field
  unsigned offsets_ = 0;  // numbers read of data_offsets
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  std::string key_;  // the last one read
  std::string text_;
  bool key_ended_ = false;
  bool negative_ = false;
  bool has_metadata_ = false;
};

// Every byte of the data section belongs to exactly one tensor: nothing can hide in a hole, and no
// two tensors can be made to share bytes.
void check_cover(const std::vector<TensorInfo>& tensors, Bytes data_bytes,
                 const std::string& path) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) order.push_back(&tensor);
  // A tensor without elements lies before the one that starts where it does.
  std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  Bytes end = 0;
  for (const TensorInfo* tensor : order) {
    if (tensor->offset != end) {
      refuse(path,
             fmt::format("tensor {} starts at byte {} of the data, {} {}", quoted(tensor->name),
                         tensor->offset,
                         tensor->offset > end ? "after a hole at" : "inside what ends at", end));
    }
    const auto next = checked_add(end, tensor->bytes);
    if (!next || *next > data_bytes) {
      refuse(path, fmt::format("tensor {} ends past the end of the file", quoted(tensor->name)));
    }
    end = *next;
  }
  if (end != data_bytes) {
    refuse(path, fmt::format("{} bytes behind the last tensor", data_bytes - end));
  }
}

struct File {
  int descriptor;
  ~File() { close(descriptor); }
};

void read_exactly(const File& file, char* to, Bytes bytes, Bytes offset, const std::string& path) {
  while (bytes > 0) {
    const ssize_t got = pread(file.descriptor, to, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_read(path, std::strerror(errno));
    if (got == 0) refuse_read(path, "became shorter while it was read");
    to += got;
    offset += static_cast<Bytes>(got);
    bytes -= static_cast<Bytes>(got);
  }
}

int64_t nanoseconds(const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

// Reads one file's header and appends its tensors.
void add_file(const std::string& path, SafetensorsFolder& folder) {
  // O_NONBLOCK: opening a pipe must not hang.
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.descriptor < 0) refuse_read(path, std::strerror(errno));
  struct stat status {};
  if (fstat(file.descriptor, &status) != 0) refuse_read(path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse_read(path, "not a regular file");
  const auto size = static_cast<Bytes>(status.st_size);
  if (size < kLengthBytes) refuse(path, fmt::format("{} bytes are too few for a header", size));
  unsigned char length[kLengthBytes];
  read_exactly(file, reinterpret_cast<char*>(length), kLengthBytes, 0, path);
  Bytes header = 0;
  for (size_t i = kLengthBytes; i-- > 0;) header = header << 8 | length[i];
  // Checked against the limit and the file before anything is allocated.
  if (header > kHeaderMax) {
    refuse(path, fmt::format("a header of {} bytes is longer than the limit of {}", header,
                             format_bytes(kHeaderMax)));
  }
  if (header > size - kLengthBytes) {
    refuse(path, fmt::format("a header of {} bytes in a file of {}", header, size));
  }
  std::string bytes(kLengthBytes + header, '\0');
  read_exactly(file, bytes.data(), bytes.size(), 0, path);
  auto tensors = parse_safetensors_header(std::string_view(bytes).substr(kLengthBytes),
                                          bytes.size(), size, path);
  if (tensors.size() > kTensorsMax - folder.tensors.size()) {
    refuse(path, fmt::format("more than {} tensors in the shards so far", kTensorsMax));
  }
  for (TensorInfo& tensor : tensors) {
    tensor.file = static_cast<uint32_t>(folder.files.size());
    folder.tensors.push_back(std::move(tensor));
  }
  folder.files.push_back({.path = path,
                          .size = size,
                          .mtime_ns = nanoseconds(status.st_mtim),
                          .ctime_ns = nanoseconds(status.st_ctim),
                          .header_digest = digest64(bytes),
                          .header_bytes = bytes.size()});
}

// A plain name cannot leave the folder. Links are followed: the cache of Hugging Face is made of
// them, and what they lead to is opened for reading only and must parse.
bool is_plain_file_name(std::string_view name) {
  return name.size() <= kFileNameMax && name.ends_with(".safetensors") && name.front() != '.' &&
         name.find_first_of("/\\") == std::string_view::npos && !has_control_character(name);
}

using WeightMap = std::vector<std::pair<std::string, std::string>>;  // tensor → shard, by tensor

WeightMap read_index(const std::string& path) {
  const json::value root = read_json(path, {.bytes_max = kIndexMax, .depth_max = kIndexDepth});
  const json::object* object = root.if_object();
  const json::value* map = object != nullptr ? object->if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) refuse(path, "\"weight_map\" is not there");
  WeightMap weights;
  if (map->get_object().size() > kTensorsMax) {
    refuse(path, fmt::format("more than {} tensors", kTensorsMax));
  }
  weights.reserve(map->get_object().size());
  for (const json::key_value_pair& pair : map->get_object()) {
    const json::string* shard = pair.value().if_string();
    if (shard == nullptr || !is_plain_file_name({shard->data(), shard->size()})) {
      refuse(path, fmt::format("{} is not in a plain *.safetensors file of the folder",
                               quoted({pair.key().data(), pair.key().size()})));
    }
    weights.emplace_back(pair.key(), *shard);
  }
  std::sort(weights.begin(), weights.end());
  return weights;
}

SafetensorsFolder open_shards(const std::string& folder, const std::string& index_path) {
  const WeightMap weights = read_index(index_path);
  std::vector<std::string> shards;
  for (const auto& [tensor, shard] : weights) shards.push_back(shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  if (shards.empty()) refuse(index_path, "\"weight_map\" is empty");
  if (shards.size() > kShardsMax) refuse(index_path, fmt::format("{} shards", shards.size()));
  SafetensorsFolder result;
  for (const std::string& shard : shards) add_file(folder + "/" + shard, result);
  std::sort(result.tensors.begin(), result.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::pair(std::string_view(a.name), a.file) <
                     std::pair(std::string_view(b.name), b.file);
            });
  // Both lists are sorted by name and the index names each once: they are equal, or differ first
  // at a tensor that one of them lacks, has in another shard or (the shards) has twice.
  for (size_t i = 0; i < std::max(weights.size(), result.tensors.size()); ++i) {
    const TensorInfo* tensor = i < result.tensors.size() ? &result.tensors[i] : nullptr;
    const bool listed =
        i < weights.size() && (tensor == nullptr || weights[i].first <= tensor->name);
    const std::string& name = listed ? weights[i].first : tensor->name;
    if (tensor == nullptr || !listed || tensor->name != name ||
        shards[tensor->file] != weights[i].second) {
      refuse(index_path,
             fmt::format("the index and the shards disagree on tensor {}", quoted(name)));
    }
  }
  return result;
}

bool exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

}  // namespace

const TensorInfo* SafetensorsFolder::find(std::string_view name) const {
  const auto at = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const TensorInfo& tensor, std::string_view n) { return tensor.name < n; });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

std::vector<TensorInfo> parse_safetensors_header(std::string_view header_json, Bytes header_bytes,
                                                 Bytes file_size, const std::string& path) {
  HEADRACE_ASSERT(header_bytes == kLengthBytes + header_json.size(),
                  fmt::format("{} of {}", header_json.size(), header_bytes));
  if (header_json.size() > kHeaderMax) refuse(path, "the header is longer than the limit");
  if (header_bytes > file_size) refuse(path, "the file ends inside the header");
  if (!header_json.starts_with('{')) refuse(path, "the header does not start with '{'");
  // Writers pad with blanks, so that data are aligned; the parser would let other white space pass.
  const size_t last = header_json.find_last_not_of(' ');
  if (header_json[last] != '}') refuse(path, "the header does not end with '}'");
  json::parse_options options;
  options.max_depth = kHeaderDepth;
  json::basic_parser<HeaderReader> parser(options, path);
  json::error_code ec;
  const size_t end = parser.write_some(false, header_json.data(), header_json.size(), ec);
  if (ec) refuse(path, fmt::format("header: {} at byte {}", ec.message(), end));
  if (end < header_json.size()) refuse(path, fmt::format("header: junk at byte {}", end));
  std::vector<TensorInfo> tensors = parser.handler().take();
  check_cover(tensors, file_size - header_bytes, path);
  for (TensorInfo& tensor : tensors) tensor.offset += header_bytes;
  return tensors;
}

SafetensorsFolder open_safetensors(const std::string& folder) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = single + ".index.json";
  // The order of Hugging Face's own loader.
  if (exists(single)) {
    SafetensorsFolder result;
    add_file(single, result);
    return result;
  }
  if (exists(index)) return open_shards(folder, index);
  const bool pickled =
      exists(folder + "/pytorch_model.bin") || exists(folder + "/pytorch_model.bin.index.json");
  throw Error(pickled ? ErrorCode::kUnsupported : ErrorCode::kIo,
              fmt::format("{}: holds neither model.safetensors nor its index; {}", folder,
                          pickled ? "pickled weights are never loaded: save them as safetensors"
                                  : "give the folder of a model"))
      .at_path(folder);
}

}  // namespace headrace
