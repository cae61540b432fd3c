// Files of a store: opened for direct I/O where the filesystem allows it, read and written in full
// or not at all, with errors that name the path. Direct I/O keeps weights out of the page cache,
// where they would compete with the memory that the budget gives to the run.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/tier.h"

namespace headrace::swap {

// Throws kIo "cannot WHAT PATH: the system's words for `error`".
[[noreturn]] void throw_io(const std::string& path, std::string_view what, int error);

// kBlock-aligned, zeroed memory. Direct I/O reads into and writes from nothing else.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(Bytes bytes);  // rounded up to kBlock; throws kFailed when refused
  std::byte* data() const { return data_.get(); }
  Bytes size() const { return size_; }
  std::span<std::byte> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  Bytes size_ = 0;
};

// Move-only; closes on destruction. Not thread-safe. While direct() holds, memory, offsets and
// sizes must be multiples of kBlock.
class File {
 public:
  File() = default;
  // A new file in a folder that must have none of that name; read and write.
  static File create(const std::string& path);
  // An existing regular file, read only; links are not followed, so that a store cannot name files
  // outside its folder. kFormat when it is not a regular file, kIo otherwise.
  static File open(const std::string& path);
  // A new file in `folder` that has no name and goes with its last descriptor; read and write.
  static File nameless(const std::string& folder);
  // The same of a file outside any store, such as a model's: links are followed.
  static File open_linked(const std::string& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  int descriptor() const { return descriptor_; }
  bool direct() const { return direct_; }
  const std::string& path() const { return path_; }
  Bytes size() const;

  // Fills `out`; continues short reads, retries EINTR. kFormat when the file ends before.
  void read(std::span<std::byte> out, Bytes offset);
  void probe_direct();  // leaves direct I/O where the first read would refuse it; moves nothing
  void write(std::span<const std::byte> data, Bytes offset);
  void reserve(Bytes bytes);     // makes the file so long, with room on the disk for all of it
  int try_reserve(Bytes bytes);  // the same; an errno instead of an error
  void sync();                   // data and length are on the disk when it returns
  void drop_cache(Bytes begin, Bytes end);  // of a file that is not direct; a hint

 private:
  File(std::string path, int flags, int mode);
  bool is_regular() const;
  bool leave_direct();  // after EINVAL: true when a buffered retry makes sense

  std::string path_;
  int descriptor_ = -1;
  bool direct_ = false;
};

void sync_folder(const std::string& folder);  // its entries are on the disk when it returns
bool remove_file(const std::string& path);    // false when there was none; kIo when it stays

}  // namespace headrace::swap
