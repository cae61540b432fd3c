#include "swap/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "swap/file.h"

namespace headrace::swap {
namespace {

// Files of later formats included, so that a store of a newer version can be removed as well.
bool is_store_file(std::string_view name) {
  // usage: the engine's, about this store and of no use without it.
  if (name == "super" || name == "usage" || name == "usage.new") return true;
  for (const std::string_view stem : {"manifest.", "data."}) {
    if (!name.starts_with(stem)) continue;
    const std::string_view number = name.substr(stem.size());
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    if (!number.empty() && number.size() <= 20) {
      return std::all_of(number.begin(), number.end(), is_digit);
    }
  }
  return false;
}

// The process that wrote its id into the lock file, or 0.
long writer_of(int descriptor) {
  char text[24] = {};
  if (pread(descriptor, text, sizeof text - 1, 0) <= 0) return 0;
  return std::strtol(text, nullptr, 10);
}

[[noreturn]] void throw_busy(const std::string& folder, int descriptor, LockMode mode) {
  // Readers share the lock: if it can be shared now, then readers keep the writer out.
  if (mode == LockMode::kExclusive && flock(descriptor, LOCK_SH | LOCK_NB) == 0) {
    throw Error(
        ErrorCode::kFailed,
        fmt::format("the store {} is in use: another process reads it; wait for it", folder))
        .at_path(folder);
  }
  const long pid = writer_of(descriptor);
  const std::string who = pid > 0 ? fmt::format("another process ({})", pid) : "another process";
  throw Error(
      ErrorCode::kFailed,
      fmt::format("the store {} is busy: {} is writing this store; wait for it", folder, who))
      .at_path(folder);
}

int open_lock(const std::string& path, LockMode mode) {
  constexpr int kCommon = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  if (mode == LockMode::kExclusive) return ::open(path.c_str(), kCommon | O_RDWR | O_CREAT, 0666);
  const int descriptor = ::open(path.c_str(), kCommon | O_RDONLY);
  if (descriptor >= 0 || errno != ENOENT) return descriptor;
  return ::open(path.c_str(), kCommon | O_RDONLY | O_CREAT, 0666);  // a copied store has none
}

// A reader goes on without a lock where the file cannot be opened or made (it may be no writer's
// either), or where the filesystem has no locks: a writer makes new files, readers keep theirs.
bool reads_without_lock(int error) {
  constexpr int kErrors[] = {EROFS, EACCES, EPERM, ENOSPC, EDQUOT, ENOLCK, ENOSYS, EOPNOTSUPP};
  return std::find(std::begin(kErrors), std::end(kErrors), error) != std::end(kErrors);
}

// False when the file was removed, or replaced, between open and flock.
bool is_still_there(const std::string& path, int descriptor) {
  struct stat mine {
  }, theirs{};
  return fstat(descriptor, &mine) == 0 && stat(path.c_str(), &theirs) == 0 &&
         mine.st_ino == theirs.st_ino && mine.st_dev == theirs.st_dev;
}

}  // namespace

std::string plain_folder(const std::string& folder) {
  if (folder.empty()) {
    throw Error(ErrorCode::kUsage, "the store's folder has no name: an empty path; name a folder");
  }
  const size_t last = folder.find_last_not_of('/');
  return last == std::string::npos ? "/" : folder.substr(0, last + 1);
}

FolderLock FolderLock::take(const std::string& folder, LockMode mode) {
  const std::string path = folder + "/lock";
  const int operation = (mode == LockMode::kExclusive ? LOCK_EX : LOCK_SH) | LOCK_NB;
  constexpr int kAttempts = 100;
  FolderLock lock;
  lock.mode_ = mode;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    lock.descriptor_ = open_lock(path, mode);
    if (lock.descriptor_ < 0) {
      if (mode == LockMode::kShared && reads_without_lock(errno)) return lock;
      throw_io(path, "open", errno);
    }
    int result;
    do {
      result = flock(lock.descriptor_, operation);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EWOULDBLOCK) {
      lock.mode_ = LockMode::kShared;  // what is not ours must not be emptied on the way out
      throw_busy(folder, lock.descriptor_, mode);
    }
    if (result != 0 && mode == LockMode::kShared && reads_without_lock(errno)) {
      lock.release();
      return lock;
    }
    if (result != 0) throw_io(path, "lock", errno);
    if (is_still_there(path, lock.descriptor_)) {
      if (mode == LockMode::kExclusive) {
        const std::string pid = fmt::format("{}\n", getpid());
        // Only words for others: a lock without them still locks.
        if (ftruncate(lock.descriptor_, 0) == 0) {
          [[maybe_unused]] const ssize_t n = pwrite(lock.descriptor_, pid.data(), pid.size(), 0);
        }
      }
      return lock;
    }
    ::close(std::exchange(lock.descriptor_, -1));
  }
  throw Error(
      ErrorCode::kFailed,
      fmt::format("cannot lock {}: others make and remove it all the time; wait for them", folder))
      .at_path(folder);
}

void FolderLock::release() {
  if (descriptor_ < 0) return;
  if (mode_ == LockMode::kExclusive) {
    [[maybe_unused]] const int result = ftruncate(descriptor_, 0);
  }
  ::close(std::exchange(descriptor_, -1));
}

FolderLock::~FolderLock() { release(); }

FolderLock::FolderLock(FolderLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), mode_(other.mode_) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(mode_, other.mode_);
  return *this;
}

std::optional<FolderContent> look_at_folder(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), closedir);
  if (!dir) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    throw_io(folder, "list", errno);
  }
  FolderContent content;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) {
      if (errno != 0) throw_io(folder, "list", errno);
      return content;
    }
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat status {};
    const bool regular =
        fstatat(dirfd(dir.get()), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(status.st_mode);
    if (regular && name == "lock") {
      content.has_lock = true;
    } else if (regular && is_store_file(name)) {
      content.own.push_back(name);
      content.bytes += static_cast<Bytes>(status.st_size);
      content.blocks += static_cast<Bytes>(status.st_blocks) * 512;
    } else {
      content.foreign = name;
    }
  }
}

SuperRead read_super(const std::string& folder) {
  File file = File::open(super_path(folder));
  if (file.size() != kSuperBytes) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{} has {} bytes instead of {}: the store is damaged; rebuild it with "
                            "`headrace store remove {}`",
                            file.path(), file.size(), kSuperBytes, folder))
        .at_path(file.path());
  }
  const AlignedBuffer buffer(kSlotBytes);
  SuperRead super;
  std::optional<Error> failure;
  for (size_t i = 0; i < super.slots.size(); ++i) {
    // Each alone: a sector that cannot be read takes one slot and not both.
    try {
      file.read(buffer.span(), i * kSlotBytes);
    } catch (const Error& error) {
      failure = error;
      super.states[i] = SlotState::kDamaged;
      continue;
    }
    super.bytes_read += kSlotBytes;
    super.states[i] = decode_slot(buffer.span(), super.slots[i]);
    if (super.states[i] == SlotState::kValid) super.candidates.push_back(super.slots[i]);
  }
  if (super.candidates.empty() && failure) throw *failure;
  auto& found = super.candidates;
  std::stable_sort(found.begin(), found.end(), [](const Superblock& a, const Superblock& b) {
    return a.generation > b.generation;
  });
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return super;
}

void remove_files(const std::string& folder, const std::vector<std::string>& own) {
  for (const std::string& name : own) remove_file(folder + "/" + name);
  sync_folder(folder);
}

}  // namespace headrace::swap
