// Element types of tensors in files, slots and activations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace headrace {

enum class DType : uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

size_t size_of(DType type);                               // bytes of one element
std::string_view name_of(DType type);                     // "float32", as in config.json
std::string_view safetensors_name(DType type);            // "F32", as in a safetensors header
std::optional<DType> parse_dtype(std::string_view text);  // either spelling

}  // namespace headrace
