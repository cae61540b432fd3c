// JSON as Headrace reads it: strict, bounded and with duplicate keys refused. The only file besides
// its .cpp that knows which library parses.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "core/tier.h"

namespace headrace {

namespace json = boost::json;

struct JsonLimits {
  Bytes bytes_max = 8 * kMiB;
  unsigned depth_max = 32;
};

// Throws Error(kFormat) that names `what` (a path or a flag) and the byte offset: not UTF-8, junk
// after the value, too deep, too long, a key twice in an object, a number that is not finite.
json::value parse_json(std::string_view text, std::string_view what, const JsonLimits& limits = {});
// Reads and parses; kIo when the file cannot be read.
json::value read_json(const std::string& path, const JsonLimits& limits = {});
// The whole of a regular file of at most `bytes_max`; kIo or kFormat otherwise.
std::string read_file(const std::string& path, Bytes bytes_max);

// A number that is not finite is written as null: JSON has no word for it.
std::string to_text(const json::value& value);    // compact, keys in insertion order
std::string to_pretty(const json::value& value);  // two-space indent, newline at the end

}  // namespace headrace
