// The JSON reader: what it accepts must survive writing and reading again; what it refuses and the
// library accepts must be one of the faults that the library lets pass.
#include <boost/json/parse.hpp>

#include "core/json.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

void check_round_trip(const json::value& value) {
  const std::string text = to_text(value);
  FUZZ_CHECK(to_text(parse_json(text, "written")) == text, text);
  FUZZ_CHECK(to_text(parse_json(to_pretty(value), "pretty")) == text, text);
}

bool library_accepts(std::string_view text) {
  json::error_code ec;
  json::parse({text.data(), text.size()}, ec);
  return !ec;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"architectures":["LlamaForCausalLM"],"hidden_size":64,"rms_norm_eps":1e-05,"x":null})",
      R"({"a":{"b":{"c":[1,-2,3.5,true,false,{"d":"\u00e9\ud83d\ude00\n"}]}},"e":""})",
      "[18446744073709551615,-9223372036854775808,0.1,1e308,5e-324]",
      R"([{"k":1,"l":2},{"k":1,"l":2}])",
      "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
      "\"\xf0\x9f\x98\x80\"",
      " \t\r\n7 ",
      R"({"a":1,"a":1})",
      "1e999",
  };
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  const std::string_view text = fuzz::text_of(data, size);
  try {
    const json::value value = parse_json(text, "input");
    FUZZ_CHECK(fuzz::library_accepts(text));
    fuzz::check_round_trip(value);
  } catch (const Error& e) {
    const std::string_view why = e.what();
    const bool stricter = why.find("appears twice") != std::string_view::npos ||
                          why.find("not finite") != std::string_view::npos;
    FUZZ_CHECK(e.code() == ErrorCode::kFormat, e.what());
    FUZZ_CHECK(stricter || !fuzz::library_accepts(text), e.what());
  }
  return 0;
}
