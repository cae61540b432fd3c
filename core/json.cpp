#include "core/json.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace headrace {
namespace {

// Builds the value while the parser reads, because the library's own builder lets the last of two
// equal keys win and lets 1e999 become infinity. Open containers are pointers into the tree: a
// container's parent does not grow while the container is open, so they stay valid.
class Builder {
 public:
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code& ec) { return open(json::object(), ec); }
  bool on_array_begin(json::error_code& ec) { return open(json::array(), ec); }
  bool on_object_end(size_t, json::error_code&) { return open_.pop_back(), true; }
  bool on_array_end(size_t, json::error_code&) { return open_.pop_back(), true; }

  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, json::error_code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_string_part(json::string_view part, size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, size_t, json::error_code& ec) {
    text_.append(part.data(), part.size());
    const bool added = add(json::value(json::string(text_)), ec) != nullptr;
    text_.clear();
    return added;
  }

  bool on_number_part(json::string_view part, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_int64(int64_t value, json::string_view, json::error_code& ec) {
    return number(value, ec);
  }
  bool on_uint64(uint64_t value, json::string_view, json::error_code& ec) {
    return number(value, ec);
  }
  // The library's conversion may be off by one unit in the last place: the digits are read again.
  bool on_double(double value, json::string_view part, json::error_code& ec) {
    text_.append(part.data(), part.size());
    double exact = 0;
    const auto read = std::from_chars(text_.data(), text_.data() + text_.size(), exact);
    if (read.ec == std::errc{}) value = exact;  // out of range: infinite, or as good as zero
    if (!std::isfinite(value)) {
      return refuse(fmt::format("number {} is not finite", shortened(text_)), ec);
    }
    return number(value, ec);
  }

  bool on_bool(bool value, json::error_code& ec) { return add(value, ec) != nullptr; }
  bool on_null(json::error_code& ec) { return add(nullptr, ec) != nullptr; }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

  json::value& root() { return root_; }
  const std::string& reason() const { return reason_; }  // what this class refused, or empty

 private:
  // Returns where the value now lives; nullptr when its key was there already.
  json::value* add(json::value value, json::error_code& ec) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (json::array* array = open_.back()->if_array()) {
      return &array->emplace_back(std::move(value));
    }
    const auto [at, added] = open_.back()->get_object().emplace(key_, std::move(value));
    if (!added) {
      refuse(fmt::format("key \"{}\" appears twice in an object", shortened(key_)), ec);
      return nullptr;
    }
    key_.clear();
    return &at->value();
  }
  bool open(json::value container, json::error_code& ec) {
    json::value* at = add(std::move(container), ec);
    if (at == nullptr) return false;
    open_.push_back(at);
    return true;
  }
  template <typename Number>
  bool number(Number value, json::error_code& ec) {
    text_.clear();
    return add(json::value(value), ec) != nullptr;
  }
  bool refuse(std::string reason, json::error_code& ec) {
    reason_ = std::move(reason);
    ec = json::error::syntax;
    return false;
  }

  json::value root_;
  std::vector<json::value*> open_;
  std::string key_, text_, reason_;
};

constexpr size_t kCompact = static_cast<size_t>(-1);  // in place of a depth: no white space

// The shortest digits that read back as the same double, and as a double: the library would write
// 0.5 as 5E-1, and infinity as Infinity, which is not JSON (null is what JavaScript writes).
std::string number_text(double value) {
  if (!std::isfinite(value)) return "null";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

void write_value(const json::value& value, size_t depth, std::string& out);

template <typename Container, typename Item>
void write_items(const Container& items, std::string_view brackets, size_t depth, std::string& out,
                 const Item& write_item) {
  out += brackets[0];
  bool first = true;
  for (const auto& each : items) {
    if (!first) out += ',';
    first = false;
    if (depth != kCompact) out.append(1, '\n').append(2 * (depth + 1), ' ');
    write_item(each);
  }
  if (!first && depth != kCompact) out.append(1, '\n').append(2 * depth, ' ');
  out += brackets[1];
}

void write_value(const json::value& value, size_t depth, std::string& out) {
  const size_t inner = depth == kCompact ? kCompact : depth + 1;
  if (const json::object* object = value.if_object()) {
    write_items(*object, "{}", depth, out, [&](const json::key_value_pair& pair) {
      out += json::serialize(pair.key());
      out += depth == kCompact ? ":" : ": ";
      write_value(pair.value(), inner, out);
    });
  } else if (const json::array* array = value.if_array()) {
    write_items(*array, "[]", depth, out,
                [&](const json::value& each) { write_value(each, inner, out); });
  } else if (value.is_double()) {
    out += number_text(value.get_double());
  } else {
    out += json::serialize(value);
  }
}

[[noreturn]] void refuse_read(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kIo, fmt::format("{}: {}; check the path and its permissions", path, why))
      .at_path(path);
}

struct File {
  int descriptor;
  ~File() { close(descriptor); }
};

}  // namespace

json::value parse_json(std::string_view text, std::string_view what, const JsonLimits& limits) {
  const auto refuse = [&](const std::string& why) {
    return Error(ErrorCode::kFormat, fmt::format("{}: {}; give one valid JSON value", what, why))
        .at_path(std::string(what));
  };
  if (text.size() > limits.bytes_max) {
    throw refuse(fmt::format("JSON of {} is longer than the limit of {}", format_bytes(text.size()),
                             format_bytes(limits.bytes_max)));
  }
  json::parse_options options;
  options.max_depth = limits.depth_max;
  json::basic_parser<Builder> parser(options);
  json::error_code ec;
  const size_t end = parser.write_some(false, text.data(), text.size(), ec);
  if (ec) {
    const std::string& reason = parser.handler().reason();
    throw refuse(fmt::format("{} at byte {}", reason.empty() ? ec.message() : reason, end));
  }
  if (end < text.size()) throw refuse(fmt::format("junk after the value at byte {}", end));
  return std::move(parser.handler().root());
}

json::value read_json(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_file(path, limits.bytes_max), path, limits);
}

std::string read_file(const std::string& path, Bytes bytes_max) {
  // O_NONBLOCK: opening a pipe that somebody left in a model folder must not hang.
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.descriptor < 0) refuse_read(path, std::strerror(errno));
  struct stat status {};
  if (fstat(file.descriptor, &status) != 0) refuse_read(path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse_read(path, "not a regular file");
  const auto size = static_cast<Bytes>(status.st_size);
  if (size > bytes_max) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: {} is more than the limit of {}; check that it is the right file",
                            path, format_bytes(size), format_bytes(bytes_max)))
        .at_path(path);
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t got = read(file.descriptor, text.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_read(path, std::strerror(errno));
    if (got == 0) refuse_read(path, "became shorter while it was read");
    done += static_cast<size_t>(got);
  }
  return text;
}

std::string to_text(const json::value& value) {
  std::string out;
  write_value(value, kCompact, out);
  return out;
}

std::string to_pretty(const json::value& value) {
  std::string out;
  write_value(value, 0, out);
  out += '\n';
  return out;
}

}  // namespace headrace
