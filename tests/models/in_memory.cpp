#include "tests/models/in_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "core/error.h"
#include "core/half.h"
#include "core/safetensors.h"
#include "models/families.h"

namespace headrace::models {

namespace {

const kernels::Kernels& packing() { return *kernels::tables().back(); }  // the reference

// All rows of a part (of a vector: elements), one after another, picked one by one.
std::vector<std::byte> rows_of(const Part& part, const std::vector<std::byte>& tensor) {
  const bool vector = part.form == Form::kVector;
  const Bytes element = size_of(part.dtype);
  const uint64_t count = vector ? part.k : part.rows, width = vector ? 1 : part.k;
  const uint64_t total = part.slice.total == 0 ? count : part.slice.total;
  EXPECT_EQ(tensor.size(), total * width * element) << part.tensor;
  std::vector<std::byte> out(count * width * element);
  for (uint64_t r = 0; r < count; ++r) {
    const Slice& s = part.slice;
    const uint64_t row = s.total == 0 ? r : s.first + r / s.run * s.stride + r % s.run;
    for (uint64_t i = 0; i < width; ++i) {
      const uint64_t from = part.transposed ? i * total + row : row * width + i;
      std::memcpy(&out[(r * width + i) * element], &tensor[from * element], element);
    }
  }
  for (uint64_t i = 0; part.add_one && i < count; ++i) {
    float value;
    std::memcpy(&value, &out[i * 4], 4);
    value += 1;
    std::memcpy(&out[i * 4], &value, 4);
  }
  return out;
}

void pack_piece(const Part& part, const Piece& piece, const std::byte* tensor, std::byte* chunk) {
  const Bytes row_bytes = part.k * size_of(part.dtype);
  const std::byte* rows = tensor + piece.row_begin * row_bytes;
  const uint64_t count = piece.row_end - piece.row_begin;
  if (part.form != Form::kPanels) {
    std::memcpy(chunk + piece.offset, rows, count * row_bytes);
    return;
  }
  packing().pack_panels({.rows = rows,
                         .type = part.dtype,
                         .k = part.k,
                         .count = static_cast<uint32_t>(count),
                         .panels = chunk + piece.offset});
}

std::vector<std::byte> read_tensor(const SafetensorsFolder& folder, const TensorInfo& info) {
  std::ifstream in(folder.files[info.file].path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(info.offset));
  std::vector<std::byte> bytes(info.bytes);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(in.good()) << info.name;
  return bytes;
}

std::vector<std::byte> widened(const std::vector<std::byte>& bytes, DType type) {
  const uint64_t count = bytes.size() / size_of(type);
  std::vector<std::byte> out(count * sizeof(float));
  packing().widen({.in = bytes.data(),
                   .type = type,
                   .count = count,
                   .out = reinterpret_cast<float*>(out.data())});
  return out;
}

}  // namespace

std::unique_ptr<InMemoryModel> pack_model(const ModelConfig& config, const Matrices& tensors) {
  auto model = std::make_unique<InMemoryModel>();
  model->config = config;
  model->layout = layout_of(config);
  for (const ObjectLayout& object : model->layout.objects) {
    std::vector<AlignedBytes>& chunks = model->chunks.emplace_back();
    std::vector<std::vector<std::byte>> rows;
    for (const Part& part : object.parts) rows.push_back(rows_of(part, tensors.at(part.tensor)));
    for (const ChunkLayout& chunk : object.chunks) {
      chunks.emplace_back(chunk.bytes);
      for (const Piece& piece : chunk.pieces) {
        pack_piece(object.parts[piece.part], piece, rows[piece.part].data(), chunks.back().data());
      }
    }
  }
  model->decoder = std::make_unique<Decoder>(model->config, model->layout);
  for (ObjectId id = 0; id < model->layout.objects.size(); ++id) {
    if (!model->layout.objects[id].always_resident) continue;
    model->decoder->bind_resident(id, model->chunks[id][0].data());
  }
  return model;
}

std::unique_ptr<InMemoryModel> load_model(const std::string& folder) {
  ModelConfig config = read_config(folder);
  const SafetensorsFolder files = open_safetensors(folder);
  const TensorInfo* embedding = files.find(config.names->embedding);
  EXPECT_NE(embedding, nullptr) << folder;
  if (embedding == nullptr) return nullptr;
  EXPECT_EQ(config.dtype, embedding->dtype);
  Matrices tensors;
  std::set<std::string> left;
  for (const TensorInfo& info : files.tensors) left.insert(info.name);
  for_each_tensor(layout_of(config), [&](const Part& part) {
    const TensorInfo* info = files.find(part.tensor);
    if (info == nullptr && !part.also.empty()) info = files.find(part.also);
    ASSERT_NE(info, nullptr) << part.tensor;
    EXPECT_EQ(left.erase(info->name), 1u) << part.tensor;
    EXPECT_EQ(info->shape, tensor_shape(part));
    std::vector<std::byte> bytes = read_tensor(files, *info);
    if (part.form == Form::kVector) bytes = widened(bytes, info->dtype);
    tensors[part.tensor] = std::move(bytes);
  });
  EXPECT_TRUE(left.empty()) << "no place for " << *left.begin();
  return pack_model(config, tensors);
}

namespace {

// Factors of as many pairs as rotate.
json::array random_factors(Random& random, uint64_t pairs) {
  json::array factors;
  for (uint64_t i = 0; i < pairs; ++i) factors.push_back(1.0 + random.uniform() * 8);
  return factors;
}

void set_random_scaling(Random& random, json::object& config, uint64_t head_dim) {
  config.erase("rope_scaling");
  json::object scaling{{"factor", 1.0 + static_cast<double>(random.between(1, 30)) / 4}};
  const char* kinds[] = {"linear", "dynamic", "llama3", "yarn", "longrope"};
  const std::string kind = kinds[random.below(5)];
  scaling["rope_type"] = kind;
  scaling["original_max_position_embeddings"] = random.between(8, 60);
  if (kind == "llama3") {
    scaling["low_freq_factor"] = 1.0;
    scaling["high_freq_factor"] = 4.0;
  }
  if (kind == "longrope") {
    scaling["short_factor"] = random_factors(random, head_dim / 2);
    scaling["long_factor"] = random_factors(random, head_dim / 2);
  }
  config["rope_scaling"] = scaling;
}

void set_random_mixture(Random& random, json::object& config, const std::string& name) {
  const uint64_t experts = random.between(1, 6);
  config[name == "mixtral" ? "num_local_experts" : "num_experts"] = experts;
  config["num_experts_per_tok"] = random.between(1, experts);
  config["moe_intermediate_size"] = random.between(1, 100);
  config["shared_expert_intermediate_size"] = random.between(1, 100);
  config["norm_topk_prob"] = random.chance(0.5);
  config["decoder_sparse_step"] = random.between(1, 2);
  if (random.chance(0.3)) config["mlp_only_layers"] = json::array{1};
}

void set_random_features(Random& random, json::object& config) {
  for (const char* name :
       {"attention_bias", "mlp_bias", "use_bias", "bias", "enable_bias", "new_decoder_architecture",
        "multi_query", "do_layer_norm_before", "use_parallel_residual",
        "scale_attn_by_inverse_layer_idx", "use_sliding_window"}) {
    config[name] = random.chance(0.5);
  }
  const char* activations[] = {"silu", "gelu", "gelu_new", "relu"};
  for (const char* name : {"hidden_act", "hidden_activation", "activation_function"}) {
    config[name] = activations[random.below(4)];
  }
  config["max_window_layers"] = random.between(0, 3);
  config["sliding_window_pattern"] = random.between(1, 3);
  if (random.chance(0.5)) config["sliding_window"] = random.between(1, 50);
  config["query_pre_attn_scalar"] = random.between(1, 40);
}

}  // namespace

bool derives_heads(const std::string& family) {
  return family == "qwen2" || family == "gpt2" || family == "opt" || family == "gpt_neox" ||
         family == "falcon";
}

json::object random_config(Random& random) {
  return random_config(random, families()[random.below(families().size())]);
}

json::object random_config(Random& random, const Family& family) {
  json::object config = family.example();
  const FieldNames& fields = family.fields;
  const std::string name = family.name;
  const uint64_t groups = random.between(1, 3), kv_heads = random.between(1, 4);
  const uint64_t head_dim =
      name == "gpt_neox" ? 8 * random.between(1, 5) : 2 * random.between(1, 20);
  config[fields.heads] = groups * kv_heads;
  if (fields.kv_heads != nullptr) config[fields.kv_heads] = kv_heads;
  config[fields.hidden] = random.between(1, 150);
  if (derives_heads(name)) {
    config[fields.hidden] = groups * kv_heads * head_dim;
    config.erase("head_dim");
  } else {
    config["head_dim"] = head_dim;
  }
  config[fields.intermediate] = random.between(1, 200);
  config[fields.layers] = random.between(1, 3);
  config[fields.positions] = 512;
  config["vocab_size"] = random.between(1, 400);
  config["tie_word_embeddings"] = random.chance(0.5);
  config["torch_dtype"] = json::array{"float32", "bfloat16", "float16"}[random.below(3)];
  set_random_features(random, config);
  if (name == "mistral" || name == "mixtral") {
    config.erase("attention_bias");
    config.erase("mlp_bias");
  }
  if (family.names.experts.router != nullptr) set_random_mixture(random, config, name);
  if (name != "gpt_neox" && name != "phi3" && random.chance(0.5)) {
    set_random_scaling(random, config, head_dim);
  }
  return config;
}

Matrices random_tensors(const ModelConfig& config, uint64_t seed) {
  Matrices tensors;
  uint64_t stream = 0;
  for_each_tensor(layout_of(config), [&](const Part& part) {
    Random random(seed, ++stream);
    uint64_t count = 1;
    for (const uint64_t d : tensor_shape(part)) count *= d;
    std::vector<std::byte> bytes(count * size_of(part.dtype));
    const bool norm =
        part.form == Form::kVector && part.tensor.ends_with(".weight") && !part.add_one;
    const float scale =
        part.form == Form::kVector ? 0.2f : 1.5f / std::sqrt(static_cast<float>(part.k));
    for (uint64_t i = 0; i < count; ++i) {
      const float x = (norm ? 1.0f : 0.0f) + scale * random.normal();
      const uint16_t half = part.dtype == DType::kF16 ? f32_to_f16(x) : f32_to_bf16(x);
      if (part.dtype == DType::kF32) {
        std::memcpy(bytes.data() + i * 4, &x, 4);
      } else {
        std::memcpy(bytes.data() + i * 2, &half, 2);
      }
    }
    tensors[part.tensor] = std::move(bytes);
  });
  return tensors;
}

Runner::Runner(const InMemoryModel& model, Execution execution, uint32_t sequences,
               uint32_t tokens_max)
    : model_(model), execution_(execution), tables_(sequences) {
  const uint32_t per_sequence =
      (tokens_max + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens;
  for (uint32_t i = 0; i < sequences * per_sequence; ++i) {
    blocks_.emplace_back(model.decoder->kv_block_bytes());
    // What was there before must not matter: NaN patterns show any read of unwritten tokens.
    std::memset(blocks_.back().data(), 0xff, model.decoder->kv_block_bytes());
  }
  for (uint32_t b = 0; b < per_sequence; ++b) {  // blocks of the sequences interleave
    for (uint32_t s = 0; s < sequences; ++s) {
      tables_[s].push_back(blocks_[b * sequences + s].data());
    }
  }
  for (const auto& table : tables_) sequences_.push_back({.blocks = table.data()});
}

std::vector<std::vector<float>> Runner::pass(const std::vector<Row>& rows) {
  std::vector<int32_t> tokens, positions;
  std::vector<uint32_t> sequence, wanted;
  for (uint32_t m = 0; m < rows.size(); ++m) {
    tokens.push_back(rows[m].token);
    positions.push_back(rows[m].position);
    sequence.push_back(rows[m].sequence);
    if (rows[m].wanted) wanted.push_back(m);
  }
  const Decoder& decoder = *model_.decoder;
  const uint32_t rows_max = static_cast<uint32_t>(rows.size() + execution_.extra_rows);
  const uint32_t outputs_max = static_cast<uint32_t>(wanted.size() + execution_.extra_rows);
  AlignedBytes memory(decoder.activation_bytes(rows_max, outputs_max));
  std::memset(memory.data(), 0xff, memory.span().size());
  const auto activations = decoder.bind(memory.span(), rows_max, outputs_max);
  Context context{*execution_.kernels, *execution_.pool};
  const std::vector<uint32_t> lengths(sequences_.size(), execution_.length);
  const Pass pass{.tokens = tokens,
                  .positions = positions,
                  .sequence = sequence,
                  .sequences = sequences_,
                  .lengths = lengths,
                  .output_rows = wanted,
                  .logits = decoder.logits(*activations),
                  .every_row = execution_.random != nullptr && execution_.random->chance(0.3)};
  decoder.begin(context, *activations, pass);
  for (const SegmentSpec& segment : decoder.segments()) {
    run_segment(context, *activations, pass, segment);
  }
  std::vector<std::vector<float>> logits;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float* row = pass.logits + i * model_.config.vocab_size;
    logits.emplace_back(row, row + model_.config.vocab_size);
  }
  return logits;
}

void Runner::run_segment(Context& c, Activations& a, const Pass& pass, const SegmentSpec& segment) {
  const Decoder& decoder = *model_.decoder;
  switch (segment.kind) {
    case SegmentKind::kEmbed: {
      std::set<uint32_t> chunks;
      for (const int32_t token : pass.tokens) chunks.insert(decoder.embedding_chunk(token));
      for (const uint32_t chunk : chunks) {
        decoder.embed(c, a, pass, chunk, model_.chunks[segment.candidates[0]][chunk].data());
      }
      return;
    }
    case SegmentKind::kDense:
      for (const ObjectId object : segment.weights) run_object(c, a, pass, segment.id, object);
      return;
    case SegmentKind::kRoute: {
      const auto picked = decoder.route(c, a, pass, segment.id);
      const bool few = segment.per_output && !pass.every_row;
      const size_t rows = few ? pass.output_rows.size() : pass.tokens.size();
      HEADRACE_ASSERT(picked.size() == rows * model_.config.experts_per_token, segment.name);
      picked_.assign(picked.begin(), picked.end());
      return;
    }
    case SegmentKind::kExperts:
      run_experts(c, a, pass, segment);
      return;
  }
}

void Runner::run_object(Context& c, Activations& a, const Pass& pass, SegmentId segment,
                        ObjectId object) {
  const auto& chunks = model_.chunks[object];
  for (uint32_t first = 0; first < chunks.size();) {
    const uint64_t left = chunks.size() - first;
    const uint64_t run = execution_.random ? execution_.random->between(1, left) : left;
    std::vector<const std::byte*> data;
    for (uint64_t i = 0; i < run; ++i) data.push_back(chunks[first + i].data());
    model_.decoder->forward(c, a, pass, segment, object, first, data);
    first += static_cast<uint32_t>(run);
  }
}

void Runner::run_experts(Context& c, Activations& a, const Pass& pass, const SegmentSpec& segment) {
  const std::set<uint32_t> chosen(picked_.begin(), picked_.end());
  std::vector<uint32_t> order(chosen.begin(), chosen.end());
  for (size_t i = order.size(); execution_.random != nullptr && i > 1; --i) {
    std::swap(order[i - 1], order[execution_.random->below(i)]);
  }
  std::vector<std::vector<const std::byte*>> chunks(order.size());
  std::vector<ExpertData> experts;
  for (size_t i = 0; i < order.size(); ++i) {
    for (const AlignedBytes& chunk : model_.chunks[segment.candidates[order[i]]]) {
      chunks[i].push_back(chunk.data());
    }
    experts.push_back({order[i], chunks[i]});
  }
  for (size_t first = 0; first < experts.size();) {
    const size_t left = experts.size() - first;
    const size_t count = execution_.random ? execution_.random->between(1, left) : left;
    model_.decoder->experts(c, a, pass, segment.id, std::span(experts).subspan(first, count));
    first += count;
  }
  model_.decoder->combine(c, a, pass, segment.id);
}

}  // namespace headrace::models
