#include "engine/batch_input.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/text.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {

namespace {

// Of a line's bytes, while it is read: itself, its JSON (a list of one-digit ids takes 2 bytes an
// item there and 16 here, twice while it grows), its text and its tokens.
constexpr Bytes kPerLineByte = 32;

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

// What is wrong with a line, not with the run.
bool is_of_line(const Error& error) {
  return error.code() == ErrorCode::kUsage || error.code() == ErrorCode::kFormat;
}

// What lines may take in any case. A budget that this is too much for is too little for every run:
// its plan refuses it, and says what all of the run needs.
constexpr Bytes kHeldLeast = 8 * kMiB;

bool is_long(const Line& line) { return line.bytes > LineFile::kLineMax; }

Error too_long(uint64_t bytes) {
  return Error(ErrorCode::kUsage, fmt::format("line: {} bytes, but at most {} are read; shorten it",
                                              bytes, Bytes{LineFile::kLineMax}));
}

}  // namespace

BatchInput::BatchInput(std::string path, const RequestReader& reader, const BatchOutput& done,
                       Bytes memory, const std::function<void(Bytes, Bytes)>& progress)
    : file_(std::move(path), "-i"), reader_(reader) {
  struct stat info {};
  const auto all = ::fstat(file_.fd(), &info) == 0 ? static_cast<Bytes>(info.st_size) : Bytes{0};
  TextSet ids;
  Line line;
  while (file_.next(line)) {
    if (!is_blank(line.text) || is_long(line)) scan(line, done, ids);
    if (line.number % 64 == 0) progress(line.offset, all);
    const Bytes held = lines_.capacity() * sizeof(Pending) +
                       demand_.prompt_tokens.capacity() * 2 * sizeof(uint32_t);
    if (held <= std::max(memory / 2, kHeldLeast)) continue;
    throw Error(ErrorCode::kInfeasible,
                fmt::format("{}: {} lines are too many for --memory {}; give more, or divide the "
                            "file",
                            file_.path(), line.number, format_bytes(memory)))
        .at_path(file_.path())
        .at_field("memory")
        .requiring(2 * held / std::max<Bytes>(line.offset, 1) * all + 2 * held);
  }
  lines_.shrink_to_fit();
  demand_.held +=
      lines_.capacity() * sizeof(Pending) + demand_.prompt_tokens.capacity() * 2 * sizeof(uint32_t);
}

void BatchInput::scan(const Line& line, const BatchOutput& done, TextSet& ids) {
  ++counts_.requests;
  Pending pending{
      .offset = line.offset,
      .number = line.number,
      .bytes = static_cast<uint32_t>(std::min<uint64_t>(line.bytes, LineFile::kLineMax + 1))};
  std::string id = "null";
  std::optional<Request> request;
  try {
    if (is_long(line)) throw too_long(line.bytes);
    const json::object object = RequestReader::parse(line.text);
    if (const auto given = RequestReader::id_of(object)) {
      id = *given;
      pending.repeated = !ids.insert(id);
      if (!pending.repeated && done.has(id)) {
        ++counts_.kept;
        return;
      }
    }
    if (!pending.repeated) request = reader_.read(object);
  } catch (const Error& e) {
    if (!is_of_line(e)) throw;
  }
  if (!request && done.has_error(line.number)) {  // a line that was mended, or moved here, is asked
    ++counts_.kept;
    return;
  }
  lines_.push_back(pending);
  // A bad one too is read again while the model is there; of one that is too long, the text alone.
  demand_.held = std::max(demand_.held, pending.bytes * (is_long(line) ? 1 : kPerLineByte));
  if (request) add_demand(*request, line.bytes);
}

void BatchInput::add_demand(const Request& request, Bytes line_bytes) {
  any_request_ = true;
  Generator::add_demand(demand_, request);
  const SamplingParams& s = request.sampling;
  longest_ = std::max<uint64_t>(longest_, request.prompt.size() + s.max_tokens);
  tokens_wanted_ += Bytes{s.n} * s.max_tokens;
  demand_.held = std::max(demand_.held, line_bytes * kPerLineByte + Generator::output_bytes(s));
}

std::string BatchInput::error_line(const std::string& id, uint64_t number, const Error& error) {
  // The next run reads it again: it must be UTF-8, and no longer than lines may be.
  constexpr size_t kMessageMax = 4096;
  std::string storage;
  json::object what{{"message", shortened(to_utf8(error.what(), storage), kMessageMax)},
                    {"line", number}};
  if (!error.field().empty()) what["field"] = shortened(error.field());
  return fmt::format("{{\"id\":{},\"error\":{}}}", id, to_text(what));
}

Request BatchInput::read(const std::string& text, const Pending& line, std::string& id) const {
  if (line.bytes > LineFile::kLineMax) throw too_long(line.bytes);
  const json::object object = RequestReader::parse(text);
  id = RequestReader::id_of(object).value_or(id);
  if (line.repeated) {
    throw Error(ErrorCode::kUsage,
                fmt::format("id: {} is that of an earlier line; give every line its own", id))
        .at_field("id");
  }
  Request request = reader_.read(object);
  if (request.prompt.size() + request.sampling.max_tokens > longest_) {
    throw Error(ErrorCode::kFailed,
                fmt::format("{}: line {} was changed while the batch ran; run again", file_.path(),
                            line.number))
        .at_path(file_.path());
  }
  return request;
}

std::optional<BatchInput::Next> BatchInput::next() {
  if (next_ == lines_.size()) return std::nullopt;
  const Pending& line = lines_[next_++];
  Next out{.id = "null", .request = std::nullopt, .error = ""};
  try {
    out.request = read(file_.at(line.offset, line.bytes), line, out.id);
  } catch (const Error& e) {
    if (!is_of_line(e)) throw;
    ++counts_.errors;
    out.error = error_line(out.id, line.number, e);
  }
  return out;
}

}  // namespace headrace::engine
