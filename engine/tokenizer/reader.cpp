#include "engine/tokenizer/reader.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <boost/json/basic_parser_impl.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/events.h"
#include "engine/tokenizer/fields.h"

namespace headrace::engine {
namespace {

constexpr size_t kDepthMax = 32;

struct Closed {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Feeds the file to a parser in pieces, so that its size does not count.
void parse_file(const std::string& path, boost::json::basic_parser<EventHandler>& parser) {
  std::unique_ptr<std::FILE, Closed> file(std::fopen(path.c_str(), "rb"));
  if (!file) {
    throw Error(ErrorCode::kIo, fmt::format("{}; check its permissions", std::strerror(errno)));
  }
  std::setvbuf(file.get(), nullptr, _IONBF, 0);
  constexpr size_t kPiece = 64 * kKiB;
  const auto piece = std::make_unique<char[]>(kPiece);
  Bytes offset = 0;
  boost::json::error_code error;
  bool more = true;
  while (more) {
    const size_t size = std::fread(piece.get(), 1, kPiece, file.get());
    if (std::ferror(file.get()) != 0) {
      throw Error(ErrorCode::kIo, "the read failed; check the disk");
    }
    more = size == kPiece;
    const size_t used = parser.write_some(more, piece.get(), size, error);
    offset += used;
    if (offset > kTokenizerFileBytesMax) fail_field("tokenizer.json", "it is too large");
    if (error || used != size) {
      fail_field("tokenizer.json", fmt::format("damaged at byte {}: {}", offset,
                                               error ? error.message() : "text after the end"));
    }
  }
  if (!parser.done()) fail_field("tokenizer.json", "it ends early");
}

}  // namespace

Bytes tokenizer_file_bytes(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: {}; the folder needs one", path, std::strerror(errno)))
        .at_path(path);
  }
  const auto bytes = static_cast<Bytes>(status.st_size);
  if (!S_ISREG(status.st_mode) || bytes > kTokenizerFileBytesMax) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: not a file of at most 256 MiB; give another", path))
        .at_path(path);
  }
  return bytes;
}

TokenizerFile read_tokenizer_file(const std::string& path) {
  tokenizer_file_bytes(path);
  TokenizerFile file;
  VocabularyCounts counts;
  const auto pass = [&](Pass which, const auto& after) {
    boost::json::parse_options options;
    options.max_depth = kDepthMax;
    boost::json::basic_parser<EventHandler> parser(options, which, file, counts);
    parse_file(path, parser);
    after(parser.handler());
  };
  try {
    bool early = false;
    pass(Pass::kCount, [&](const EventHandler& seen) {
      if (!seen.complete()) fail_field("model", "the fields vocab and merges are missing");
      early = seen.merges_seen_early();
      file.added.reserve(seen.added_count());
    });
    file.vocabulary.reserve(counts);
    pass(Pass::kFill, [](const EventHandler&) {});
    if (early) pass(Pass::kMerges, [](const EventHandler&) {});
  } catch (const Error& error) {
    throw tokenizer_error(error, path);
  }
  return file;
}

Error tokenizer_error(const Error& error, const std::string& path) {
  std::string_view why = error.what();
  constexpr std::string_view kWhole = "tokenizer.json: ";  // the part named when it is all of it
  if (why.starts_with(kWhole)) why.remove_prefix(kWhole.size());
  const bool advises = why.find("; ") != std::string_view::npos;
  return Error(error.code(), fmt::format("{}: {}{}", path, why,
                                         advises ? "" : "; take the file from its source anew"))
      .at_path(path)
      .at_field(error.field());
}

}  // namespace headrace::engine
