// A whole model in memory and a loop that runs passes over it in every legal way: the smallest
// thing that can stand in for a store, a plan and an executor in tests of models/.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/random.h"
#include "core/threads.h"
#include "models/families.h"
#include "models/model.h"

namespace headrace::models {

using Matrices = std::map<std::string, std::vector<std::byte>>;  // row-major, by tensor name

// Bytes aligned as slots and pieces are.
class AlignedBytes {
 public:
  explicit AlignedBytes(Bytes bytes) : lines_((bytes + 63) / 64), bytes_(bytes) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(lines_.data()); }
  const std::byte* data() const { return reinterpret_cast<const std::byte*>(lines_.data()); }
  std::span<std::byte> span() { return {data(), bytes_}; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64] = {};
  };
  std::vector<Line> lines_;
  Bytes bytes_;
};

struct InMemoryModel {
  ModelConfig config;
  WeightLayout layout;
  std::vector<std::vector<AlignedBytes>> chunks;  // [object][chunk]
  std::unique_ptr<Decoder> decoder;
};

// Vectors are float32, matrices of the config's type.
std::unique_ptr<InMemoryModel> pack_model(const ModelConfig& config, const Matrices& tensors);
std::unique_ptr<InMemoryModel> load_model(const std::string& folder);
// A config.json of any family with sizes drawn so that most objects have several chunks.
// Whether the heads' size follows from the width.
bool derives_heads(const std::string& family);
json::object random_config(Random& random);
json::object random_config(Random& random, const Family& family);
Matrices random_tensors(const ModelConfig& config, uint64_t seed);

struct Row {
  uint32_t sequence = 0;
  int32_t token = 0, position = 0;
  bool wanted = true;
};

// How passes are executed: all of it may vary without a trace in the bits.
struct Execution {
  const kernels::Kernels* kernels = nullptr;
  ThreadPool* pool = nullptr;
  Random* random = nullptr;  // chooses run lengths and the order of experts; null: whole, in order
  uint64_t extra_rows = 0;   // buffers larger than the pass
  uint32_t length = 0;       // that all sequences may grow to
};

// The KV cache of up to `sequences` sequences.
class Runner {
 public:
  Runner(const InMemoryModel& model, Execution execution, uint32_t sequences, uint32_t tokens_max);
  // Logits of the wanted rows, one vector each.
  std::vector<std::vector<float>> pass(const std::vector<Row>& rows);

 private:
  void run_segment(Context& c, Activations& a, const Pass& pass, const SegmentSpec& segment);
  void run_object(Context& c, Activations& a, const Pass& pass, SegmentId segment, ObjectId object);
  void run_experts(Context& c, Activations& a, const Pass& pass, const SegmentSpec& segment);

  const InMemoryModel& model_;
  Execution execution_;
  std::vector<AlignedBytes> blocks_;
  std::vector<std::vector<std::byte*>> tables_;  // [sequence][block]
  std::vector<kernels::SequenceKv> sequences_;
  std::vector<uint32_t> picked_;  // of the last route
};

}  // namespace headrace::models
