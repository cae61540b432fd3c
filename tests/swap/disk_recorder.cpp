#include "tests/swap/disk_recorder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <filesystem>
#include <fstream>
#include <optional>

namespace headrace::swap {
namespace {

constexpr Bytes kSector = 512;

struct Recorder {
  bool active = false;
  std::string folder;
  std::vector<DiskOp> log;
  std::map<std::string, uint64_t> files;  // by name, those that are linked now
  uint64_t next = 0;
  std::array<uint64_t, kDiskCalls> calls{};
  bool armed = false, fired = false;
  DiskCall fault_call = DiskCall::kOpen;
  uint64_t fault_nth = 0;
  int fault_error = 0;
};
Recorder recorder;

enum class Verdict : uint8_t { kGo, kFail, kHalf };

Verdict judge(DiskCall call) {
  const uint64_t index = recorder.calls[static_cast<size_t>(call)]++;
  if (!recorder.armed || call != recorder.fault_call || index != recorder.fault_nth) {
    return Verdict::kGo;
  }
  recorder.armed = false;
  recorder.fired = true;
  errno = recorder.fault_error;
  return recorder.fault_error == 0 ? Verdict::kHalf : Verdict::kFail;
}

// The name of a file directly in the watched folder, "" for the folder itself.
std::optional<std::string> watched(const std::string& path) {
  if (!recorder.active || !path.starts_with(recorder.folder)) return std::nullopt;
  if (path == recorder.folder) return "";
  if (path[recorder.folder.size()] != '/') return std::nullopt;
  const std::string name = path.substr(recorder.folder.size() + 1);
  if (name == "lock" || name.find('/') != std::string::npos) return std::nullopt;
  return name;
}

std::optional<std::string> watched(int descriptor) {
  if (!recorder.active) return std::nullopt;
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t n = readlink(link.c_str(), path, sizeof path);
  return n < 0 ? std::nullopt : watched(std::string(path, static_cast<size_t>(n)));
}

void note(DiskOp::Kind kind, const std::string& name, Bytes offset = 0, Bytes size = 0,
          std::string bytes = {}) {
  if (kind == DiskOp::Kind::kCreate) recorder.files[name] = recorder.next++;
  const uint64_t file = name.empty() ? 0 : recorder.files.at(name);
  recorder.log.push_back({kind, name, file, offset, size, std::move(bytes)});
  if (kind == DiskOp::Kind::kUnlink) recorder.files.erase(name);
}

int sync_call(int descriptor, long number) {
  const auto name = watched(descriptor);
  if (!name) return static_cast<int>(syscall(number, descriptor));
  const bool folder = name->empty();
  if (judge(folder ? DiskCall::kSyncFolder : DiskCall::kSyncFile) == Verdict::kFail) return -1;
  const int result = static_cast<int>(syscall(number, descriptor));
  if (result == 0) note(folder ? DiskOp::Kind::kSyncFolder : DiskOp::Kind::kSyncFile, *name);
  return result;
}

int open_call(const char* path, int flags, unsigned mode) {
  const auto name = watched(std::string(path));
  if (name && judge(DiskCall::kOpen) == Verdict::kFail) return -1;
  struct stat status {};
  const bool existed = stat(path, &status) == 0;
  const int result = static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
  const int error = errno;
  // A filesystem without direct I/O makes the file and then refuses.
  const bool exists = stat(path, &status) == 0;
  if (name && !name->empty() && !existed && exists) note(DiskOp::Kind::kCreate, *name);
  errno = error;
  return result;
}

Bytes sectors_of(const DiskOp& op) { return (op.bytes.size() + kSector - 1) / kSector; }

// Whether operation `index` is known to be on the disk after `done` operations.
bool is_durable(const std::vector<DiskOp>& log, size_t index, size_t done) {
  using Kind = DiskOp::Kind;
  const DiskOp& op = log[index];
  const bool is_name = op.kind == Kind::kCreate || op.kind == Kind::kUnlink;
  for (size_t i = index + 1; i < done; ++i) {
    if (is_name && log[i].kind == Kind::kSyncFolder) return true;
    if (!is_name && log[i].kind == Kind::kSyncFile && log[i].file == op.file) return true;
  }
  return false;
}

bool is_sync(const DiskOp& op) {
  return op.kind == DiskOp::Kind::kSyncFile || op.kind == DiskOp::Kind::kSyncFolder;
}

size_t units_of(const DiskOp& op) { return op.kind == DiskOp::Kind::kWrite ? sectors_of(op) : 1; }

void apply(const DiskOp& op, size_t unit, DiskImage& image) {
  std::string& content = image.files[op.file];
  switch (op.kind) {
    case DiskOp::Kind::kCreate:
      image.names[op.name] = op.file;
      break;
    case DiskOp::Kind::kUnlink:
      if (image.names.count(op.name) != 0 && image.names[op.name] == op.file) {
        image.names.erase(op.name);
      }
      break;
    case DiskOp::Kind::kResize:
      if (content.size() < op.size) content.resize(op.size);
      break;
    case DiskOp::Kind::kWrite: {
      const Bytes begin = unit * kSector;
      const std::string sector = op.bytes.substr(begin, kSector);
      const Bytes at = op.offset + begin;
      if (content.size() < at + sector.size()) content.resize(at + sector.size());
      content.replace(at, sector.size(), sector);
      break;
    }
    default:
      break;
  }
}

}  // namespace

DiskImage image_of(const std::string& folder) {
  DiskImage image;
  if (!std::filesystem::exists(folder)) return image;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "lock") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const uint64_t file = image.files.size();
    image.files[file] = {std::istreambuf_iterator<char>(in), {}};
    image.names[name] = file;
  }
  return image;
}

void make_folder(const DiskImage& image, const std::string& folder) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const auto& [name, file] : image.names) {
    std::ofstream out(folder + "/" + name, std::ios::binary);
    if (image.files.count(file) != 0) out << image.files.at(file);
  }
}

void start_recording(const std::string& folder, const DiskImage& base) {
  recorder = Recorder{};
  recorder.folder = std::filesystem::weakly_canonical(folder).string();
  recorder.files = base.names;
  recorder.next = base.files.size();
  recorder.active = true;
}

std::vector<DiskOp> stop_recording() {
  recorder.active = false;
  return std::move(recorder.log);
}

void inject_fault(DiskCall call, uint64_t nth, int error) {
  recorder.fault_call = call;
  recorder.fault_nth = nth;
  recorder.fault_error = error;
  recorder.armed = true;
}

bool fault_fired() { return recorder.fired; }

size_t unflushed(const std::vector<DiskOp>& log, size_t done) {
  size_t count = 0;
  for (size_t i = 0; i < done; ++i) {
    if (!is_sync(log[i]) && !is_durable(log, i, done)) count += units_of(log[i]);
  }
  return count;
}

DiskImage crash_image(const DiskImage& base, const std::vector<DiskOp>& log, size_t done,
                      const std::vector<bool>& kept) {
  DiskImage image = base;
  size_t next = 0;
  for (size_t i = 0; i < done; ++i) {
    if (is_sync(log[i])) continue;
    const bool durable = is_durable(log, i, done);
    for (size_t unit = 0; unit < units_of(log[i]); ++unit) {
      if (durable || kept[next++]) apply(log[i], unit, image);
    }
  }
  return image;
}

}  // namespace headrace::swap

// The replaced calls. The linker prefers a program's own definitions to the C library's.
using headrace::swap::DiskCall;
using headrace::swap::DiskOp;
using headrace::swap::Verdict;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const unsigned mode = (flags & O_CREAT) != 0 ? va_arg(arguments, unsigned) : 0;
  va_end(arguments);
  return headrace::swap::open_call(path, flags, mode);
}

int unlink(const char* path) noexcept {
  const auto name = headrace::swap::watched(std::string(path));
  if (name && headrace::swap::judge(DiskCall::kUnlink) == Verdict::kFail) return -1;
  const int result = static_cast<int>(syscall(SYS_unlink, path));
  if (name && result == 0) headrace::swap::note(DiskOp::Kind::kUnlink, *name);
  return result;
}

ssize_t pread(int descriptor, void* data, size_t bytes, off_t offset) {
  if (headrace::swap::watched(descriptor)) {
    const Verdict verdict = headrace::swap::judge(DiskCall::kRead);
    if (verdict == Verdict::kFail) return -1;
    if (verdict == Verdict::kHalf) bytes = bytes / 2 / 512 * 512;
  }
  return syscall(SYS_pread64, descriptor, data, bytes, offset);
}

ssize_t pwrite(int descriptor, const void* data, size_t bytes, off_t offset) {
  const auto name = headrace::swap::watched(descriptor);
  if (name) {
    const Verdict verdict = headrace::swap::judge(DiskCall::kWrite);
    if (verdict == Verdict::kFail) return -1;
    if (verdict == Verdict::kHalf) bytes = bytes / 2 / 512 * 512;
  }
  const ssize_t result = syscall(SYS_pwrite64, descriptor, data, bytes, offset);
  if (name && result > 0) {
    headrace::swap::note(DiskOp::Kind::kWrite, *name, static_cast<uint64_t>(offset), 0,
                         {static_cast<const char*>(data), static_cast<size_t>(result)});
  }
  return result;
}

int fallocate(int descriptor, int mode, off_t offset, off_t bytes) {
  const auto name = headrace::swap::watched(descriptor);
  if (name && headrace::swap::judge(DiskCall::kReserve) == Verdict::kFail) return -1;
  const int result = static_cast<int>(syscall(SYS_fallocate, descriptor, mode, offset, bytes));
  if (name && result == 0) {
    headrace::swap::note(DiskOp::Kind::kResize, *name, 0, static_cast<uint64_t>(offset + bytes));
  }
  return result;
}

int fdatasync(int descriptor) { return headrace::swap::sync_call(descriptor, SYS_fdatasync); }
int fsync(int descriptor) { return headrace::swap::sync_call(descriptor, SYS_fsync); }

}  // extern "C"
