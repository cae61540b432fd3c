#include "engine/batch_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "core/clock.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/line_file.h"

namespace headrace::engine {

namespace {

constexpr std::string_view kHead = "{\"id\":";  // every line begins so
// and goes on in one of these ways
constexpr std::array<std::string_view, 3> kNext = {",\"text\":", ",\"outputs\":", ",\"error\":"};
constexpr double kFlushEvery = 10;  // seconds of work that a machine that stops may cost

// ---- what a line that is there answers

struct Answer {
  std::string id;           // as JSON text; "null" where the input's line had none
  uint64_t error_line = 0;  // 0: a result
};

// The JSON text of a line's id, of a line that begins as ours do; nothing else of it is read, since
// results can be long.
std::optional<std::string_view> leading_id(std::string_view line) {
  if (!line.starts_with(kHead)) return std::nullopt;
  line.remove_prefix(kHead.size());
  size_t end = 0;
  if (line.starts_with('"')) {
    for (end = 1; end < line.size() && line[end] != '"'; ++end) end += line[end] == '\\' ? 1 : 0;
    ++end;
  } else {
    end = line.find(',');
  }
  if (end >= line.size() || line[end] != ',') return std::nullopt;
  return line.substr(0, end);
}

// What comes behind the id in a line of ours; `rest` may be cut short where the line is torn.
bool may_follow_id(std::string_view rest) {
  return std::ranges::any_of(kNext, [&](std::string_view next) {
    const size_t n = std::min(rest.size(), next.size());
    return rest.substr(0, n) == next.substr(0, n);
  });
}

std::optional<Answer> answer_of(std::string_view line) {
  try {
    const std::optional<std::string_view> id = leading_id(line);
    const std::string_view rest = id ? line.substr(kHead.size() + id->size()) : "";
    if (rest.starts_with(kNext[0]) || rest.starts_with(kNext[1])) {
      return Answer{to_text(parse_json(*id, "id"))};
    }
    const json::value value = parse_json(line, "line", {.bytes_max = LineFile::kLineMax});
    const json::object& object = value.as_object();
    Answer answer{to_text(object.at("id"))};
    if (const json::value* error = object.if_contains("error")) {
      answer.error_line = error->as_object().at("line").to_number<uint64_t>();
    } else if (!object.contains("usage")) {
      return std::nullopt;
    }
    return answer;
  } catch (const std::exception&) {  // of the parser, or a member that is not there
    return std::nullopt;
  }
}

// Whether a line without its newline can be what is left of one of ours.
bool may_be_ours(std::string_view tail) {
  const size_t n = std::min(tail.size(), kHead.size());
  if (tail.substr(0, n) != kHead.substr(0, n)) return false;
  const std::optional<std::string_view> id = leading_id(tail);
  return !id || may_follow_id(tail.substr(kHead.size() + id->size()));
}

}  // namespace

// ---- texts

TextSet::Key TextSet::key_of(std::string_view text) {
  return {digest64(text, 1) | 1, digest64(text, 2)};
}

size_t TextSet::place(const Key& key) const {
  size_t at = key.b & (keys_.size() - 1);
  while (keys_[at] != Key{} && keys_[at] != key) at = (at + 1) & (keys_.size() - 1);
  return at;
}

bool TextSet::insert(std::string_view text) {
  if (2 * (size_ + 1) > keys_.size()) {
    std::vector<Key> old(std::max<size_t>(64, 2 * keys_.size()));
    old.swap(keys_);
    for (const Key& key : old) {
      if (key != Key{}) keys_[place(key)] = key;
    }
  }
  const Key key = key_of(text);
  Key& free = keys_[place(key)];
  if (free == key) return false;
  free = key;
  ++size_;
  return true;
}

bool TextSet::contains(std::string_view text) const {
  if (keys_.empty()) return false;
  const Key key = key_of(text);
  return keys_[place(key)] == key;
}

// ---- the file

BatchOutput::BatchOutput(std::string path) : path_(std::move(path)) {
  made_ = ::access(path_.c_str(), F_OK) != 0;
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0 && errno == EACCES && !made_) {  // such as a pipe, which is only written
    fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  }
  if (fd_ < 0) fail(errno);
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail(errno);
  regular_ = S_ISREG(info.st_mode);
  flushed_s_ = steady_clock().seconds();
  if (!regular_) return;
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int why = errno;
    ::close(std::exchange(fd_, -1));
    if (why != EWOULDBLOCK) fail(why);
    throw Error(
        ErrorCode::kIo,
        fmt::format("{}: another run writes to it; wait for that, or give another -o", path_))
        .at_path(path_)
        .at_field("-o");
  }
  try {
    read_back();
  } catch (...) {
    ::close(std::exchange(fd_, -1));
    throw;
  }
}

BatchOutput::~BatchOutput() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (made_ && regular_ && bytes_ == 0 && !ended_) ::unlink(path_.c_str());  // nothing came of it
}

void BatchOutput::read_back() {
  LineFile file(fd_, path_, "-o");
  Line line;
  while (file.next(line)) {
    if (!line.whole && may_be_ours(line.text)) break;
    const std::optional<Answer> answer = line.whole ? answer_of(line.text) : std::nullopt;
    if (!answer) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: line {} is not a batch's result; give -o another file", path_,
                              line.number))
          .at_path(path_)
          .at_field("-o");
    }
    bytes_ = line.offset + line.bytes + 1;
    ++lines_;
    if (answer->error_line != 0) {
      error_lines_.insert(answer->error_line);
    } else {
      ids_.insert(answer->id);
    }
  }
  if (::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) fail(errno);
}

void BatchOutput::forget_answers() {
  ids_ = {};
  error_lines_ = {};
}

void BatchOutput::append(std::string line) {
  line += '\n';
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t n = ::write(fd_, line.data() + written, line.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 || (n == 0 && line.size() > written)) {
      const int why = n < 0 ? errno : ENOSPC;
      // A part of a line is worth nothing; should this fail too, the next run drops it.
      if (regular_ && ::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) fail(why);
      fail(why);
    }
    written += static_cast<size_t>(n);
  }
  bytes_ += line.size();
  ++lines_;
  if (steady_clock().seconds() - flushed_s_ > kFlushEvery) flush();
}

void BatchOutput::flush() {
  flushed_s_ = steady_clock().seconds();
  if (regular_ && ::fdatasync(fd_) != 0) fail(errno);
}

void BatchOutput::finish() {
  flush();
  ended_ = true;
}

void BatchOutput::fail(int error) const {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot be written: {}; check -o and the space there",
                                          path_, std::strerror(error)))
      .at_path(path_)
      .at_field("-o");
}

}  // namespace headrace::engine
