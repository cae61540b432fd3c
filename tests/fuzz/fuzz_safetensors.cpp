// The header reader. An input is a header and, behind its last '#', the number of bytes of data
// that follow it in the file.
#include <algorithm>
#include <charconv>

#include "core/json.h"
#include "core/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

// What every accepted header must satisfy, stated again without the reader's own arithmetic.
void check_accepted(std::string_view header, Bytes data_bytes, std::vector<TensorInfo> tensors) {
  const json::value tree = parse_json(header, "header", {.bytes_max = 16 * kMiB, .depth_max = 3});
  const json::object& entries = tree.as_object();
  FUZZ_CHECK(entries.size() == tensors.size() + (entries.contains("__metadata__") ? 1 : 0));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    FUZZ_CHECK(i == 0 || tensors[i - 1].name < tensor.name);
    FUZZ_CHECK(!tensor.name.empty() && tensor.name.size() <= 512 && tensor.shape.size() <= 8);
    const json::object& entry = entries.at(tensor.name).as_object();
    const json::array& shape = entry.at("shape").as_array();
    FUZZ_CHECK(entry.size() == 3 && shape.size() == tensor.shape.size());
    FUZZ_CHECK(entry.at("dtype").as_string() == safetensors_name(tensor.dtype));
    double bytes = static_cast<double>(size_of(tensor.dtype));
    for (size_t d = 0; d < shape.size(); ++d) {
      FUZZ_CHECK(shape[d].to_number<uint64_t>() == tensor.shape[d]);
      bytes *= static_cast<double>(tensor.shape[d]);
    }
    FUZZ_CHECK(bytes == static_cast<double>(tensor.bytes));  // exact: files here are small
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  Bytes end = 8 + header.size();
  for (const TensorInfo& tensor : tensors) {
    FUZZ_CHECK(tensor.offset == end);
    end += tensor.bytes;
  }
  FUZZ_CHECK(end == 8 + header.size() + data_bytes);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}#24)",
      R"({"b":{"shape":[1],"data_offsets":[4,6],"dtype":"BF16"},)"
      R"("a":{"dtype":"I32","shape":[],"data_offsets":[0,4]},"__metadata__":{"format":"pt"}}  #6)",
      R"({"z":{"dtype":"U8","shape":[0,9],"data_offsets":[0,0]},)"
      R"("y":{"dtype":"BOOL","shape":[5],"data_offsets":[0,5]},)"
      R"("x":{"dtype":"F64","shape":[1,1,1,1,1,1,1,1],"data_offsets":[5,13]}}#13)",
      "{}#0",
      R"({"a":{"dtype":"U8","shape":[4398046511105,4194304],"data_offsets":[0,4194304]}}#4194304)",
      R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}#1)",
      R"({"\u00e9\n":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}#2)",
  };
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  const std::string_view input = fuzz::text_of(data, size);
  const size_t mark = std::min(input.rfind('#'), input.size());
  const std::string_view header = input.substr(0, mark);
  uint32_t data_bytes = 0;  // wrong digits leave 0: a file that ends with its header
  if (mark < input.size()) {
    std::from_chars(input.data() + mark + 1, input.data() + input.size(), data_bytes);
  }
  const Bytes header_bytes = 8 + header.size();
  try {
    auto tensors =
        parse_safetensors_header(header, header_bytes, header_bytes + data_bytes, "input");
    fuzz::check_accepted(header, data_bytes, std::move(tensors));
  } catch (const Error& e) {
    FUZZ_CHECK(e.code() == ErrorCode::kFormat || e.code() == ErrorCode::kUnsupported, e.what());
    FUZZ_CHECK(e.path() == "input");
  }
  return 0;
}
