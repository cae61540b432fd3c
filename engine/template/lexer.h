// Cuts a template into text and tokens, with the white space rules that chat templates are written
// for: trim_blocks, lstrip_blocks, no newline at the end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/template/value.h"

namespace headrace::engine::jinja {

// A template that cannot be parsed; `line` counts from 1.
[[noreturn]] void fail_at(uint32_t line, const std::string& why);

struct Token {
  enum class Type : uint8_t {
    kText,
    kOutputBegin,  // {{
    kOutputEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kSymbol,  // an operator, in text
    kEnd,
  };
  Type type = Type::kEnd;
  uint32_t line = 1;
  std::string text;
  Int integer = 0;
  double real = 0;
};

std::vector<Token> tokenize(std::string_view source);

}  // namespace headrace::engine::jinja
