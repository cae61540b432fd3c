// The layout of weights: complete, without overlap, aligned, and as the segments name it.
#include "models/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "kernels/args.h"
#include "models/families.h"
#include "tests/models/in_memory.h"
#include "tests/support/seed.h"

namespace headrace::models {
namespace {

void each_config(const std::function<void(const ModelConfig&)>& check) {
  for (uint64_t i = 0; i < test::cases(200); ++i) {
    Random random(test::seed(), i);
    json::object json = random_config(random);
    if (random.chance(0.3)) {  // large: chunks of many sizes, panels larger than a chunk
      const Family& family = *find_family(parse_config(json, "random").family);
      if (std::string_view(family.name) != "falcon") json["head_dim"] = 64;
      const uint64_t widest =
          derives_heads(family.name) ? 2000 : 5000;  // heads have a largest size
      json[family.fields.hidden] =
          8 * random.between(1, widest) * json[family.fields.heads].to_number<uint64_t>();
      json[family.fields.intermediate] = random.between(1, 30000);
      json.erase("rope_scaling");
    }
    SCOPED_TRACE(test::seed_note(i) + ": " + to_text(json));
    check(parse_config(json, "random"));
    if (testing::Test::HasFatalFailure()) return;
  }
}

Bytes expected_bytes(const Part& part, const Piece& piece) {
  const uint64_t rows = piece.row_end - piece.row_begin;
  if (part.form != Form::kPanels) return rows * part.k * size_of(part.dtype);
  return (rows + 15) / 16 * kernels::panel_bytes(part.dtype, part.k);
}

void check_object(const ObjectLayout& object, Bytes target) {
  std::vector<uint64_t> next(object.parts.size());  // the row that must come next, by part
  ASSERT_FALSE(object.chunks.empty());
  ASSERT_TRUE(!object.always_resident || object.chunks.size() == 1);
  for (const ChunkLayout& chunk : object.chunks) {
    ASSERT_FALSE(chunk.pieces.empty());
    Bytes end = 0;
    for (const Piece& piece : chunk.pieces) {
      const Part& part = object.parts.at(piece.part);
      ASSERT_EQ(piece.row_begin, next[piece.part]) << part.tensor;
      ASSERT_LT(piece.row_begin, piece.row_end);
      ASSERT_LE(piece.row_end, part.rows);
      if (part.form == Form::kPanels) {
        ASSERT_EQ(piece.row_begin % 16, 0u);
        ASSERT_TRUE(piece.row_end % 16 == 0 || piece.row_end == part.rows);
      }
      ASSERT_EQ(piece.offset % 64, 0u);
      ASSERT_GE(piece.offset, end);
      ASSERT_EQ(piece.bytes, expected_bytes(part, piece));
      end = piece.offset + piece.bytes;
      next[piece.part] = piece.row_end;
    }
    ASSERT_EQ(chunk.bytes, round_up(end, kBlock));
    const uint64_t first_rows = chunk.pieces[0].row_end - chunk.pieces[0].row_begin;
    const bool one_grain = chunk.pieces.size() == 1 && first_rows <= 16;
    ASSERT_TRUE(object.always_resident || end <= target || one_grain) << end;
  }
  for (size_t p = 0; p < next.size(); ++p) ASSERT_EQ(next[p], object.parts[p].rows);
}

TEST(Layout, EveryRowHasOnePlace) {
  each_config([](const ModelConfig& config) {
    const WeightLayout layout = layout_of(config);
    std::set<std::string> names, tensors;
    Bytes sum = 0;
    for (const ObjectLayout& object : layout.objects) {
      ASSERT_TRUE(names.insert(object.name).second) << object.name;
      for (const Part& part : object.parts) tensors.insert(part.tensor);
      ASSERT_NO_FATAL_FAILURE(check_object(object, chunk_target(config))) << object.name;
      for (const ChunkLayout& chunk : object.chunks) sum += chunk.bytes;
    }
    EXPECT_EQ(layout.bytes(), sum);
    EXPECT_EQ(layout.embedding == layout.head, config.tie_word_embeddings);
    size_t visited = 0;
    for_each_tensor(layout, [&](const Part& part) { visited += tensors.count(part.tensor); });
    EXPECT_EQ(visited, tensors.size());
  });
}

// The parts that are slices of one tensor cover it, each row once.
TEST(Layout, SlicesCoverTheirTensors) {
  each_config([](const ModelConfig& config) {
    const WeightLayout layout = layout_of(config);
    std::map<std::string, std::vector<uint8_t>> seen;
    for (const ObjectLayout& object : layout.objects) {
      for (const Part& part : object.parts) {
        const bool vector = part.form == Form::kVector;
        const uint64_t rows = vector ? part.k : part.rows;
        std::vector<uint8_t>& used = seen[part.tensor];
        used.resize(part.slice.total == 0 ? rows : part.slice.total);
        uint64_t count = 0;
        for (const SourceRun& run : source_runs(part, 0, rows)) {
          ASSERT_LE(run.first + run.count, used.size()) << part.tensor;
          for (uint64_t i = 0; i < run.count; ++i) ASSERT_EQ(used[run.first + i]++, 0);
          count += run.count;
        }
        ASSERT_EQ(count, rows);
      }
    }
    for (const auto& [tensor, used] : seen) {
      EXPECT_EQ(std::count(used.begin(), used.end(), 1), static_cast<std::ptrdiff_t>(used.size()))
          << tensor;
    }
  });
}

TEST(Layout, ChunksAreFilled) {  // no chunk could have taken the grain that begins the next
  each_config([](const ModelConfig& config) {
    const WeightLayout layout = layout_of(config);
    const Bytes most = chunk_target(config);
    for (ObjectId id = 0; id < layout.objects.size(); ++id) {
      const ObjectLayout& object = layout.objects[id];
      const Bytes cap = id != layout.embedding       ? most
                        : config.tie_word_embeddings ? std::min(most, 256 * kKiB)
                                                     : std::min(most, 64 * kKiB);
      for (size_t i = 0; i + 1 < object.chunks.size(); ++i) {
        const Piece& last = object.chunks[i].pieces.back();
        const Piece& first = object.chunks[i + 1].pieces.front();
        const Part& part = object.parts[first.part];
        const uint64_t grain = std::min<uint64_t>(part.rows, part.form == Form::kPanels ? 16 : 1);
        const Bytes bytes = expected_bytes(part, {.row_begin = 0, .row_end = grain});
        ASSERT_GT(round_up(last.offset + last.bytes, 64) + bytes, cap) << object.name;
      }
    }
  });
}

TEST(Layout, SpecsAndSegmentsNameEveryObject) {
  each_config([](const ModelConfig& config) {
    const WeightLayout layout = layout_of(config);
    const std::vector<ObjectSpec> specs = layout.specs();
    ASSERT_EQ(specs.size(), layout.objects.size());
    for (ObjectId id = 0; id < specs.size(); ++id) {
      EXPECT_EQ(specs[id].id, id);
      EXPECT_EQ(specs[id].name, layout.objects[id].name);
      ASSERT_EQ(specs[id].chunks.size(), layout.objects[id].chunks.size());
      EXPECT_EQ(specs[id].always_resident, layout.objects[id].always_resident);
    }
    const Decoder decoder(config, layout);
    std::map<ObjectId, int> uses;
    for (SegmentId s = 0; s < decoder.segments().size(); ++s) {
      const SegmentSpec& segment = decoder.segments()[s];
      EXPECT_EQ(segment.id, s);
      for (const ObjectId id : segment.weights) ++uses[id];
      for (const ObjectId id : segment.candidates) ++uses[id];
      EXPECT_EQ(segment.cost.flops_per_row > 0, segment.kind != SegmentKind::kEmbed);
      for (const ObjectId id : segment.weights) {
        EXPECT_EQ(specs[id].always_resident, segment.kind == SegmentKind::kRoute);
      }
    }
    for (ObjectId id = 0; id < specs.size(); ++id) {
      if (specs[id].always_resident) continue;
      EXPECT_EQ(uses[id], id == layout.embedding && config.tie_word_embeddings ? 2 : 1);
    }
    EXPECT_EQ(decoder.segments().front().kind, SegmentKind::kEmbed);
    EXPECT_EQ(decoder.segments().back().weights, std::vector<ObjectId>{layout.head});
  });
}

// Every token is found in the chunk that embedding_chunk names.
TEST(Layout, EmbeddingChunksHoldTheirTokens) {
  each_config([](const ModelConfig& config) {
    const WeightLayout layout = layout_of(config);
    const Decoder decoder(config, layout);
    const ObjectLayout& embedding = layout.objects[layout.embedding];
    for (uint64_t token = 0; token < config.vocab_size; ++token) {
      const uint32_t chunk = decoder.embedding_chunk(static_cast<int32_t>(token));
      ASSERT_LT(chunk, embedding.chunks.size());
      ASSERT_EQ(embedding.chunks[chunk].pieces.size(), 1u);
      const Piece& piece = embedding.chunks[chunk].pieces[0];
      ASSERT_TRUE(piece.row_begin <= token && token < piece.row_end) << token;
    }
  });
}

ModelConfig llama_with(uint64_t layers, uint64_t hidden) {
  json::object json = find_family("llama")->example();
  json["num_hidden_layers"] = layers;
  json["hidden_size"] = hidden;
  return parse_config(json, "llama");
}

TEST(ChunkTarget, GrowsWithTheModelBetweenItsLimits) {
  Bytes before = 0;
  for (uint64_t layers = 1; layers <= 64; layers *= 2) {
    const ModelConfig config = llama_with(layers, 512);
    const Bytes bytes = layout_of(config).bytes();
    const Bytes target = chunk_target(config);
    EXPECT_GE(target, before);
    EXPECT_EQ(target & (target - 1), 0u);
    const double ratio = static_cast<double>(target) * 512 / static_cast<double>(bytes);
    if (target > 16 * kKiB && target < 2 * kMiB) {
      EXPECT_GT(ratio, 0.65);  // less than the padding below the nearest power's 2/3
      EXPECT_LE(ratio, 1.34);
    }
    before = target;
  }
  EXPECT_EQ(chunk_target(llama_with(16, 2048)), 2 * kMiB);  // 2.4 GiB
  EXPECT_EQ(chunk_target(llama_with(1, 64)), 16 * kKiB);
}

}  // namespace
}  // namespace headrace::models
