#include "engine/line_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace headrace::engine {

namespace {

constexpr size_t kReadBytes = 256 * kKiB;

}  // namespace

LineFile::LineFile(std::string path, const char* flag)
    : path_(std::move(path)), flag_(flag), fd_(-1), owned_(true) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) fail(errno);
  struct stat info {};
  const int failed = ::fstat(fd_, &info) != 0 ? errno : 0;
  if (failed == 0 && S_ISREG(info.st_mode)) return;
  ::close(fd_);
  if (failed != 0) fail(failed);
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: not a regular file, and it is read twice; give {} a file", path_, flag_))
      .at_path(path_)
      .at_field(flag_);
}

LineFile::LineFile(int fd, std::string path, const char* flag)
    : path_(std::move(path)), flag_(flag), fd_(fd), owned_(false) {}

LineFile::~LineFile() {
  if (owned_) ::close(fd_);
}

void LineFile::fail(int error) const {
  throw Error(ErrorCode::kIo,
              fmt::format("{}: cannot be read: {}; check {}", path_, std::strerror(error), flag_))
      .at_path(path_)
      .at_field(flag_);
}

bool LineFile::fill() {
  buffer_.resize(kReadBytes);
  ssize_t n = -1;
  do {
    n = ::pread(fd_, buffer_.data(), kReadBytes, static_cast<off_t>(read_));
  } while (n < 0 && errno == EINTR);
  if (n < 0) fail(errno);
  buffer_.resize(static_cast<size_t>(n));
  used_ = 0;
  read_ += static_cast<uint64_t>(n);
  return n > 0;
}

bool LineFile::next(Line& line) {
  line.text.clear();
  line.number = ++number_;
  line.offset = read_ - (buffer_.size() - used_);
  line.bytes = 0;
  line.whole = false;
  while (!line.whole) {
    if (used_ == buffer_.size() && !fill()) return line.bytes > 0;
    const char* begin = buffer_.data() + used_;
    const size_t left = buffer_.size() - used_;
    const void* end = std::memchr(begin, '\n', left);
    line.whole = end != nullptr;
    const size_t n = line.whole ? static_cast<size_t>(static_cast<const char*>(end) - begin) : left;
    line.text.append(begin, std::min<size_t>(n, kLineMax - line.text.size()));
    line.bytes += n;
    used_ += n + (line.whole ? 1 : 0);
  }
  return true;
}

std::string LineFile::at(uint64_t offset, uint64_t bytes) const {
  std::string text(std::min<uint64_t>(bytes, kLineMax), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t n =
        ::pread(fd_, text.data() + have, text.size() - have, static_cast<off_t>(offset + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(errno);
    if (n == 0) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: became shorter while it was read; run again", path_))
          .at_path(path_)
          .at_field(flag_);
    }
    have += static_cast<size_t>(n);
  }
  return text;
}

}  // namespace headrace::engine
