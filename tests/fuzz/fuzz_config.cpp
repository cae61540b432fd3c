// A config.json of any content is refused with an Error, or becomes a model that can be laid out:
// every row placed inside its chunk, every segment's objects in the layout.
#include <algorithm>

#include "core/json.h"
#include "models/families.h"
#include "models/model.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {

namespace {

constexpr Bytes kLayoutMax = kGiB;  // larger ones only parse: time, not safety

void check_layout(const models::ModelConfig& config) {
  const models::WeightLayout layout = models::layout_of(config);
  for (const models::ObjectLayout& object : layout.objects) {
    for (const models::ChunkLayout& chunk : object.chunks) {
      FUZZ_CHECK(chunk.bytes > 0 && chunk.bytes % kBlock == 0);
      for (const models::Piece& piece : chunk.pieces) {
        FUZZ_CHECK(piece.row_begin < piece.row_end);
        FUZZ_CHECK(piece.row_end <= object.parts.at(piece.part).rows);
        FUZZ_CHECK(piece.offset <= chunk.bytes && piece.bytes <= chunk.bytes - piece.offset);
      }
    }
  }
  const models::Decoder decoder(config, layout);
  for (const SegmentSpec& segment : decoder.segments()) {
    for (const ObjectId id : segment.weights) FUZZ_CHECK(id < layout.objects.size());
    for (const ObjectId id : segment.candidates) FUZZ_CHECK(id < layout.objects.size());
  }
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const models::Family& family : models::families()) {
    json::object config = family.example();
    seeds.push_back(to_text(config));
    config["hidden_size"] = 64;
    config["intermediate_size"] = 96;
    config["num_hidden_layers"] = 1;
    config["vocab_size"] = 100;
    seeds.push_back(to_text(config));
  }
  return seeds;
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  try {
    const models::ModelConfig config =
        models::parse_config(parse_json(fuzz::text_of(data, size), "input"), "input");
    const double elements =
        static_cast<double>(config.hidden_size) *
        (static_cast<double>(config.vocab_size) +
         (static_cast<double>(
              std::max({config.intermediate_size, config.expert_size, config.shared_size})) *
              (config.experts + 2) +
          static_cast<double>(config.heads) * config.head_dim) *
             config.layers);
    if (elements < static_cast<double>(fuzz::kLayoutMax)) fuzz::check_layout(config);
  } catch (const Error&) {  // a refusal
  }
  return 0;
}
