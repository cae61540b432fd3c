// Text for messages.
#pragma once

#include <string>
#include <string_view>

namespace headrace {

// UTF-8 of more bytes than `most` is cut at a character's border.
inline std::string shortened(std::string_view text, size_t most = 120) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0U) == 0x80U) --most;
  return std::string(text.substr(0, most)) + "…";
}

}  // namespace headrace
