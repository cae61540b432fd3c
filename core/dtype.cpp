#include "core/dtype.h"

#include <array>

namespace headrace {
namespace {

struct Row {
  size_t bytes;
  std::string_view name;
  std::string_view safetensors;
};

// In the order of DType.
constexpr std::array<Row, 10> kRows = {{
    {4, "float32", "F32"},
    {2, "bfloat16", "BF16"},
    {2, "float16", "F16"},
    {8, "float64", "F64"},
    {8, "int64", "I64"},
    {4, "int32", "I32"},
    {2, "int16", "I16"},
    {1, "int8", "I8"},
    {1, "uint8", "U8"},
    {1, "bool", "BOOL"},
}};

const Row& row_of(DType type) { return kRows.at(static_cast<size_t>(type)); }

}  // namespace

size_t size_of(DType type) { return row_of(type).bytes; }
std::string_view name_of(DType type) { return row_of(type).name; }
std::string_view safetensors_name(DType type) { return row_of(type).safetensors; }

std::optional<DType> parse_dtype(std::string_view text) {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == text || kRows[i].safetensors == text) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace headrace
