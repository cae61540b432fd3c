// A batch's request line: what is accepted is within the model's and the sampler's bounds, and its
// id survives being written and read again; anything else is that line's error.
#include "core/json.h"
#include "engine/line_file.h"
#include "engine/request_line.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

engine::ModelFolder small_model() {
  engine::ModelFolder folder;
  folder.config.vocab_size = 300;
  folder.config.max_position_embeddings = 64;
  return folder;
}

void check_line(std::string_view text) {
  static const engine::RequestReader reader(small_model(), nullptr, {}, {2});
  const json::object line = engine::RequestReader::parse(text);
  const auto id = engine::RequestReader::id_of(line);
  if (id) FUZZ_CHECK(to_text(parse_json(*id, "id")) == *id, *id);
  const engine::Request request = reader.read(line);
  FUZZ_CHECK(id.has_value());
  FUZZ_CHECK(!request.prompt.empty());
  FUZZ_CHECK(request.prompt.size() + request.sampling.max_tokens <= 64);
  for (int32_t token : request.prompt) FUZZ_CHECK(token >= 0 && token < 300);
  FUZZ_CHECK(request.sampling.n >= 1);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"id":1,"ids":[1,2,3],"max_tokens":4})",
      R"({"id":"a\u00e9","ids":[299],"temperature":0.5,"top_k":3,"top_p":0.9,"n":2,"seed":7})",
      R"({"id":18446744073709551615,"ids":[0],"stop_token_ids":[5],"logprobs":3})",
      R"({"id":"x","ids":[1],"logit_bias":{"7":-1.5},"ignore_eos":true,"min_tokens":1})",
      R"({"id":"x","prompt":"text"})",
      R"({"id":"x","messages":[{"role":"user","content":"hi"}]})",
      R"({"id":1.5,"ids":[1],"repetition_penalty":1.1,"presence_penalty":1})",
      R"({"ids":[1],"prompt":"b","typical_p":0.5,"min_p":0.1,"stop":["a"]})",
      "[]",
  };
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  const std::string_view text = fuzz::text_of(data, size);
  try {
    fuzz::check_line(text);
  } catch (const Error& e) {
    FUZZ_CHECK(e.code() == ErrorCode::kUsage || e.code() == ErrorCode::kFormat, e.what());
  }
  return 0;
}
