// Has a fault behind two conditions; the driver must find it in its two seconds.
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {

std::vector<std::string> fuzz_seeds() { return {"{\"length\": 16}", "{\"length\": 7, \"x\": []}"}; }

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = headrace::fuzz::text_of(data, size);
  const bool reached = text.starts_with("{\"length\": ") && text.ends_with('}');
  FUZZ_CHECK(!reached || text.find("-1") == std::string_view::npos, "found, as it must be");
  return 0;
}
