// A file of lines, read one after the other or at a known place, in bounded memory however long a
// line is. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "core/tier.h"

namespace headrace::engine {

struct Line {
  std::string text;     // without its newline; of a long line the first LineFile::kLineMax bytes
  uint64_t number = 0;  // from 1
  uint64_t offset = 0, bytes = 0;  // in the file, without the newline
  bool whole = true;               // ends with a newline
};

class LineFile {
 public:
  static constexpr Bytes kLineMax = 8 * kMiB;

  // A regular file; `flag` names it in errors. Throws kIo or kUsage.
  LineFile(std::string path, const char* flag);
  // Of an open file, which the caller keeps open.
  LineFile(int fd, std::string path, const char* flag);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  bool next(Line& line);                                  // false: the end
  std::string at(uint64_t offset, uint64_t bytes) const;  // as they are now: kFormat if shorter
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  bool fill();
  [[noreturn]] void fail(int error) const;

  std::string path_;
  const char* flag_;
  int fd_;
  bool owned_;
  std::string buffer_;
  size_t used_ = 0;    // of buffer_
  uint64_t read_ = 0;  // bytes of the file that were put into buffer_
  uint64_t number_ = 0;
};

}  // namespace headrace::engine
