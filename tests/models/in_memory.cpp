#include "tests/models/in_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "core/half.h"
#include "core/safetensors.h"
#include "models/families.h"

namespace headrace::models {

namespace {

const kernels::Kernels& packing() { return *kernels::tables().back(); }  // the reference

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
    for (const ChunkLayout& chunk : object.chunks) {
      chunks.emplace_back(chunk.bytes);
      for (const Piece& piece : chunk.pieces) {
        const Part& part = object.parts[piece.part];
        const std::vector<std::byte>& tensor = tensors.at(part.tensor);
        EXPECT_EQ(tensor.size(), part.rows * part.k * size_of(part.dtype)) << part.tensor;
        pack_piece(part, piece, tensor.data(), chunks.back().data());
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
  const TensorInfo* embedding = files.find("model.embed_tokens.weight");
  EXPECT_NE(embedding, nullptr) << folder;
  if (embedding == nullptr) return nullptr;
  EXPECT_EQ(config.dtype, embedding->dtype);
  Matrices tensors;
  std::set<std::string> left;
  for (const TensorInfo& info : files.tensors) left.insert(info.name);
  for_each_tensor(layout_of(config), [&](const Part& part) {
    const TensorInfo* info = files.find(part.tensor);
    ASSERT_NE(info, nullptr) << part.tensor;
    EXPECT_EQ(left.erase(part.tensor), 1u) << part.tensor;
    EXPECT_EQ(info->shape, part.form == Form::kVector ? std::vector<uint64_t>{part.k}
                                                      : (std::vector<uint64_t>{part.rows, part.k}));
    std::vector<std::byte> bytes = read_tensor(files, *info);
    if (part.form == Form::kVector) bytes = widened(bytes, info->dtype);
    tensors[part.tensor] = std::move(bytes);
  });
  EXPECT_TRUE(left.empty()) << "no place for " << *left.begin();
  return pack_model(config, tensors);
}

json::object random_config(Random& random) {
  const Family& family = families()[random.below(families().size())];
  json::object config = family.example();
  const std::string name = family.name;
  const uint64_t groups = random.between(1, 3), kv_heads = random.between(1, 4);
  config["num_attention_heads"] = groups * kv_heads;
  config["num_key_value_heads"] = kv_heads;
  config["head_dim"] = 2 * random.between(1, 20);
  if (name == "qwen2") config["hidden_size"] = groups * kv_heads * 2 * random.between(1, 12);
  if (name == "qwen2") config.erase("head_dim");
  if (name != "qwen2") config["hidden_size"] = random.between(1, 150);
  config["intermediate_size"] = random.between(1, 200);
  config["num_hidden_layers"] = random.between(1, 3);
  config["vocab_size"] = random.between(1, 400);
  config["tie_word_embeddings"] = random.chance(0.5);
  config["torch_dtype"] = json::array{"float32", "bfloat16", "float16"}[random.below(3)];
  if (name == "llama" || name == "qwen3") config["attention_bias"] = random.chance(0.5);
  if (name == "llama") config["mlp_bias"] = random.chance(0.5);
  if (random.chance(0.5)) config["sliding_window"] = random.between(1, 50);
  if (name.starts_with("qwen")) config["use_sliding_window"] = random.chance(0.5);
  config["max_window_layers"] = random.between(0, 3);
  if (name == "mixtral") {
    const uint64_t experts = random.between(1, 6);
    config["num_local_experts"] = experts;
    config["num_experts_per_tok"] = random.between(1, experts);
  }
  return config;
}

Matrices random_tensors(const ModelConfig& config, uint64_t seed) {
  Matrices tensors;
  uint64_t stream = 0;
  for_each_tensor(layout_of(config), [&](const Part& part) {
    Random random(seed, ++stream);
    std::vector<std::byte> bytes(part.rows * part.k * size_of(part.dtype));
    const bool norm = part.tensor.find("norm") != std::string::npos;
    const float scale =
        part.form == Form::kVector ? 0.2f : 1.5f / std::sqrt(static_cast<float>(part.k));
    for (uint64_t i = 0; i < part.rows * part.k; ++i) {
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
  const Pass pass{.tokens = tokens,
                  .positions = positions,
                  .sequence = sequence,
                  .sequences = sequences_,
                  .output_rows = wanted,
                  .logits = decoder.logits(*activations)};
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
  for (const uint32_t expert : order) {
    std::vector<const std::byte*> data;
    for (const AlignedBytes& chunk : model_.chunks[segment.candidates[expert]]) {
      data.push_back(chunk.data());
    }
    model_.decoder->expert(c, a, pass, segment.id, expert, data);
  }
  model_.decoder->combine(c, a, pass, segment.id);
}

}  // namespace headrace::models
