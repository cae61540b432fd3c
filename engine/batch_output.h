// The file that a batch writes: a line of JSON per finished request, appended whole. A batch that
// was stopped, however, goes on from it: lines that are there stay byte for byte, a last line
// without its newline is dropped, and what they answer is not asked again. One thread, and by a
// lock one process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/tier.h"

namespace headrace::engine {

// A set of texts, kept as 128-bit digests in one piece of memory. Not a defence against texts that
// were made to collide.
class TextSet {
 public:
  bool insert(std::string_view text);  // false: it was there
  bool contains(std::string_view text) const;
  size_t size() const { return size_; }

 private:
  struct Key {
    uint64_t a = 0, b = 0;  // both 0: free
    bool operator==(const Key&) const = default;
  };
  static Key key_of(std::string_view text);
  size_t place(const Key& key) const;
  std::vector<Key> keys_;  // open addressing, a power of two of them
  size_t size_ = 0;
};

class BatchOutput {
 public:
  // Opens or makes `path` and reads what earlier runs left. Throws kIo, and kFormat where a line is
  // not a batch's: another file must not be written to.
  explicit BatchOutput(std::string path);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  // Answers that are there. `id` as JSON text; of bad lines of the input, their numbers.
  bool has(std::string_view id) const { return ids_.contains(id); }
  bool has_error(uint64_t line) const { return error_lines_.contains(line); }
  uint64_t lines() const { return lines_; }
  void forget_answers();  // when they have been asked for: of many lines they are not small

  // Adds a line and its newline by one write; whole or not at all. Throws kIo.
  void append(std::string line);
  void flush();   // to the disk
  void finish();  // all is there: the file stays, though it may be empty

 private:
  void read_back();
  [[noreturn]] void fail(int error) const;

  std::string path_;
  int fd_ = -1;
  bool regular_ = true, made_ = false, ended_ = false;
  uint64_t lines_ = 0, bytes_ = 0;
  double flushed_s_ = 0;
  TextSet ids_;
  std::unordered_set<uint64_t> error_lines_;
};

}  // namespace headrace::engine
