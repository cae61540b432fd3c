#include "swap/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace headrace::swap {
namespace {

// A request larger than this is cut: the kernel returns 2 GiB requests short anyway.
constexpr Bytes kRequestMax = 64 * kMiB;
// Direct transfers in a row that move less than a block: more are taken for no progress.
constexpr unsigned kStallsMax = 3;

bool aligned(const void* data, Bytes bytes, Bytes offset) {
  return reinterpret_cast<uintptr_t>(data) % kBlock == 0 && bytes % kBlock == 0 &&
         offset % kBlock == 0;
}

}  // namespace

void throw_io(const std::string& path, std::string_view what, int error) {
  throw Error(ErrorCode::kIo,
              fmt::format("cannot {} {}: {}", what, path, std::generic_category().message(error)))
      .at_path(path);
}

void AlignedBuffer::Free::operator()(std::byte* data) const { std::free(data); }

AlignedBuffer::AlignedBuffer(Bytes bytes) : size_(round_up(std::max<Bytes>(bytes, 1), kBlock)) {
  // Large buffers on 2 MiB pages: a direct request is limited by its number of segments.
  const Bytes alignment = size_ >= kHugePage ? kHugePage : kBlock;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, round_up(size_, alignment))));
  if (!data_) {
    throw Error(ErrorCode::kFailed, fmt::format("cannot allocate {} of memory for disk I/O: the "
                                                "system refused; free memory and try again",
                                                format_bytes(size_)));
  }
  if (alignment == kHugePage) madvise(data_.get(), round_up(size_, alignment), MADV_HUGEPAGE);
  std::memset(data_.get(), 0, size_);
}

File::File(std::string path, int flags, int mode) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe that somebody put here must not hang.
  const int common = flags | O_CLOEXEC | O_NONBLOCK;
  descriptor_ = ::open(path_.c_str(), common | O_DIRECT, mode);
  direct_ = descriptor_ >= 0;
  if (descriptor_ < 0 && errno == EINVAL) {
    // The filesystem has no direct I/O. It may have made the file before it refused.
    descriptor_ = ::open(path_.c_str(), common & ~O_EXCL, mode);
  }
  if (descriptor_ < 0) throw_io(path_, (flags & O_CREAT) != 0 ? "make" : "open", errno);
  // Transfers wait: io_uring would take the flag as a wish to be refused instead.
  fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
}

File File::create(const std::string& path) {
  return File(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
}

File File::open(const std::string& path) {
  File file(path, O_RDONLY | O_NOFOLLOW, 0);
  if (!file.is_regular()) {
    throw Error(
        ErrorCode::kFormat,
        fmt::format("{} is not a regular file: this is not a store's file; remove it", path))
        .at_path(path);
  }
  return file;
}

File File::nameless(const std::string& folder) {
  const std::string path = folder + "/.";  // a link to the folder may be followed
  File file;
  file.path_ = folder;
  constexpr int kFlags = O_TMPFILE | O_RDWR | O_CLOEXEC;
  file.descriptor_ = ::open(path.c_str(), kFlags | O_DIRECT, 0600);
  file.direct_ = file.descriptor_ >= 0;
  if (file.descriptor_ < 0 && errno == EINVAL)
    file.descriptor_ = ::open(path.c_str(), kFlags, 0600);
  if (file.descriptor_ >= 0) return file;
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT) {
    throw_io(folder, "make a nameless file in", errno);
  }
  // A filesystem, or a kernel, without nameless files: the name goes at once.
  std::string name = folder + "/.scratch-XXXXXX";
  file.descriptor_ = mkostemp(name.data(), O_CLOEXEC);
  if (file.descriptor_ < 0) throw_io(folder, "make a nameless file in", errno);
  remove_file(name);
  file.direct_ = fcntl(file.descriptor_, F_SETFL, fcntl(file.descriptor_, F_GETFL) | O_DIRECT) == 0;
  return file;
}

File File::open_linked(const std::string& path) {
  File file(path, O_RDONLY, 0);
  if (!file.is_regular()) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{} is not a regular file: it cannot be read; name another", path))
        .at_path(path);
  }
  return file;
}

bool File::is_regular() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) throw_io(path_, "look at", errno);
  return S_ISREG(status.st_mode);
}

void File::probe_direct() {
  if (!direct_) return;
  const AlignedBuffer room(kBlock);
  const auto end = static_cast<off_t>(round_up(size(), kBlock));
  if (::pread(descriptor_, room.data(), kBlock, end) < 0 && errno == EINVAL) leave_direct();
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      direct_(other.direct_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(direct_, other.direct_);
  return *this;
}

Bytes File::size() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) throw_io(path_, "look at", errno);
  return static_cast<Bytes>(status.st_size);
}

bool File::leave_direct() {
  if (!direct_) return false;
  const int flags = fcntl(descriptor_, F_GETFL);
  if (flags < 0 || fcntl(descriptor_, F_SETFL, flags & ~O_DIRECT) != 0) return false;
  direct_ = false;
  return true;
}

void File::read(std::span<std::byte> out, Bytes offset) {
  HEADRACE_ASSERT(!direct_ || aligned(out.data(), out.size(), offset),
                  fmt::format("{} bytes at {}", out.size(), offset));
  Bytes done = 0;
  unsigned stalls = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(descriptor_, out.data() + done, std::min(out.size() - done, kRequestMax),
              static_cast<off_t>(offset + done));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    // Some filesystems accept O_DIRECT at open and refuse the first transfer.
    if (n < 0 && errno == EINVAL && leave_direct()) continue;
    if (n < 0) throw_io(path_, fmt::format("read {} bytes at {} of", out.size(), offset), errno);
    // A direct read continues at a block; what came past it is read again.
    const Bytes step = direct_ ? round_down(static_cast<Bytes>(n), kBlock) : static_cast<Bytes>(n);
    stalls = step == 0 ? stalls + 1 : 0;
    if (n == 0 || stalls == kStallsMax) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{} ends at {} where {} bytes are expected: the file is truncated; "
                              "rebuild the store",
                              path_, offset + done + static_cast<Bytes>(n), offset + out.size()))
          .at_path(path_);
    }
    done += step;
  }
}

void File::write(std::span<const std::byte> data, Bytes offset) {
  HEADRACE_ASSERT(!direct_ || aligned(data.data(), data.size(), offset),
                  fmt::format("{} bytes at {}", data.size(), offset));
  Bytes done = 0;
  unsigned stalls = 0;
  while (done < data.size()) {
    const ssize_t n =
        pwrite(descriptor_, data.data() + done, std::min(data.size() - done, kRequestMax),
               static_cast<off_t>(offset + done));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0 && errno == EINVAL && leave_direct()) continue;
    if (n < 0) {
      const std::string what = fmt::format("write {} bytes ({} of them missing) at {} of",
                                           data.size(), data.size() - done, offset);
      throw_io(path_, what, errno);
    }
    // A direct write continues at a block; a part of one is written again.
    const Bytes step = direct_ ? round_down(static_cast<Bytes>(n), kBlock) : static_cast<Bytes>(n);
    stalls = step == 0 ? stalls + 1 : 0;
    if (stalls == kStallsMax) throw_io(path_, fmt::format("write past {} of", offset + done), EIO);
    done += step;
  }
}

int File::try_reserve(Bytes bytes) {
  if (bytes == 0) return 0;
  int result;
  do {
    result = fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return 0;
  if (errno != EOPNOTSUPP) return errno;
  // Without preallocation the room is not promised: a full disk then shows at a write.
  return ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
}

void File::reserve(Bytes bytes) {
  const int error = try_reserve(bytes);
  if (error != 0) throw_io(path_, fmt::format("reserve {} bytes for", bytes), error);
}

void File::sync() {
  // Not retried: after a failed flush the kernel may report success for data that are lost.
  if (fdatasync(descriptor_) != 0) throw_io(path_, "flush", errno);
}

void File::drop_cache(Bytes begin, Bytes end) {
  if (direct_) return;
  posix_fadvise(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                POSIX_FADV_DONTNEED);
}

void sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_io(folder, "open", errno);
  const int result = fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // EINVAL: the filesystem has no such flush; then it has no other state to lose either.
  if (result != 0 && error != EINVAL) throw_io(folder, "flush", error);
}

bool remove_file(const std::string& path) {
  if (unlink(path.c_str()) == 0) return true;
  if (errno != ENOENT) throw_io(path, "remove", errno);
  return false;
}

}  // namespace headrace::swap
