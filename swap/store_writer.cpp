#include <fmt/format.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "core/error.h"
#include "swap/file.h"
#include "swap/folder.h"
#include "swap/manifest.h"
#include "swap/store.h"

namespace headrace::swap {
namespace {

constexpr uint64_t kGeneration = 1;  // a sealed store is written once

uint64_t random_uuid() {
  uint64_t uuid = 0;
  while (uuid == 0) {
    const ssize_t n = getrandom(&uuid, sizeof uuid, 0);
    if (n != sizeof uuid && errno != EINTR) throw_io("the random source", "read", errno);
    if (n != sizeof uuid) uuid = 0;
  }
  return uuid;
}

std::string parent_of(const std::string& folder) {
  const size_t slash = folder.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : folder.substr(0, slash);
}

bool is_there(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

// Refuses before anything is made. `reclaimed`: what removing the old store gives back.
void check_room(const std::string& folder, Bytes bytes, Bytes file_bytes, Bytes reclaimed) {
  std::string place = folder;
  while (!is_there(place) && place != "." && place != "/") place = parent_of(place);
  struct statvfs status {};
  if (statvfs(place.c_str(), &status) != 0) throw_io(place, "ask for the free space of", errno);
  const Bytes free = static_cast<Bytes>(status.f_bavail) * status.f_frsize + reclaimed;
  if (bytes > free) {
    throw Error(ErrorCode::kIo,
                fmt::format("no room for the store {}: it takes {}, the disk has {} free, {} bytes "
                            "are missing; free that much or keep the store on another disk",
                            folder, format_bytes(bytes), format_bytes(free), bytes - free))
        .at_path(folder);
  }
  // Past this limit the kernel would kill the process by a signal.
  struct rlimit limit {};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      file_bytes > limit.rlim_cur) {
    throw Error(ErrorCode::kIo,
                fmt::format("cannot make the store {}: it needs a file of {}, and files of this "
                            "process may have {} at most; raise that limit (ulimit -f)",
                            folder, format_bytes(file_bytes), format_bytes(limit.rlim_cur)))
        .at_path(folder);
  }
}

// Makes the folder and those above it; returns what it made, outermost first.
std::vector<std::string> make_folders(const std::string& folder) {
  std::vector<std::string> missing;
  for (std::string at = folder; !is_there(at) && at != "." && at != "/"; at = parent_of(at)) {
    missing.insert(missing.begin(), at);
  }
  std::vector<std::string> made;
  for (const std::string& at : missing) {
    if (mkdir(at.c_str(), 0777) == 0) {
      made.push_back(at);
    } else if (errno != EEXIST) {
      throw_io(at, "make the folder", errno);
    }
  }
  return made;
}

// Takes back what an unfinished writer made. Nothing is thrown: it runs while others are.
struct Unfinished {
  std::string folder;
  std::vector<std::string> folders;  // made by us, outermost first
  bool armed = false;
  ~Unfinished() {
    if (!armed) return;
    for (const std::string& path : {super_path(folder), manifest_path(folder, kGeneration),
                                    data_path(folder), folder + "/lock"}) {
      unlink(path.c_str());
    }
    for (auto at = folders.rbegin(); at != folders.rend(); ++at) rmdir(at->c_str());
  }
};

class Writer final : public StoreWriter {
 public:
  Writer(const std::string& folder, const StoreSpec& spec)
      : folder_(folder), manifest_(lay_out(spec)), written_(manifest_.extents.size(), false) {
    const Bytes manifest_size = manifest_bytes(manifest_);
    prepare_folder(kSuperBytes + manifest_size + manifest_.data_bytes,
                   std::max(manifest_size, manifest_.data_bytes));
    manifest_.generation = kGeneration;
    manifest_.uuid = random_uuid();
    // All room is taken now, so that a full disk shows here and not hours later.
    data_ = File::create(data_path(folder_));
    data_.reserve(manifest_.data_bytes);
    manifest_file_ = File::create(manifest_path(folder_, kGeneration));
    manifest_file_.reserve(manifest_size);
    super_file_ = File::create(super_path(folder_));
    super_file_.reserve(kSuperBytes);
  }

  void write(ObjectId object, uint32_t chunk, std::span<const std::byte> data) override {
    HEADRACE_ASSERT(
        !committed_ && object < manifest_.objects() && chunk < manifest_.chunks(object).size(),
        fmt::format("object {} chunk {}", object, chunk));
    const size_t index = manifest_.first[object] + chunk;
    Extent& extent = manifest_.extents[index];
    HEADRACE_ASSERT(!written_[index], fmt::format("object {} chunk {}", object, chunk));
    HEADRACE_ASSERT(
        data.size() == extent.bytes && reinterpret_cast<uintptr_t>(data.data()) % kBlock == 0,
        fmt::format("object {} chunk {}: {} bytes of {}", object, chunk, data.size(),
                    extent.bytes));
    // The checksum is taken first: damage on the way to the disk must not be sealed in.
    extent.digest = checksum(data, manifest_.uuid, object, chunk);
    data_.write(data, extent.offset);
    written_[index] = true;
    left_in_cache_ += extent.bytes;
    drop_cache();
  }

  void commit() override {
    HEADRACE_ASSERT(!committed_);
    const auto gap = std::find(written_.begin(), written_.end(), false);
    HEADRACE_ASSERT(gap == written_.end(),
                    fmt::format("extent {} was never written", gap - written_.begin()));
    manifest_.created_unix_s = std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count();
    // Each flush is an ordering point: what is above it is on the disk before what is below.
    data_.sync();
    Superblock super = write_manifest();
    for (const std::string& made : unfinished_.folders) sync_folder(parent_of(made));
    sync_folder(folder_);
    write_slot(super, 0);
    // The second slot is a copy: it makes one unreadable sector survivable.
    write_slot(super, 1);
    committed_ = true;
    unfinished_.armed = false;
    data_ = File();
    manifest_file_ = File();
    super_file_ = File();
    lock_.release();
  }

 private:
  void prepare_folder(Bytes bytes, Bytes file_bytes) {
    const auto content = look_at_folder(folder_);
    refuse_foreign(content);
    check_room(folder_, bytes, file_bytes, content ? content->blocks : 0);
    unfinished_.folder = folder_;
    unfinished_.folders = make_folders(folder_);
    lock_ = FolderLock::take(folder_, LockMode::kExclusive);
    const auto locked = look_at_folder(folder_);
    refuse_foreign(locked);
    unfinished_.armed = true;
    if (!locked || locked->own.empty()) return;
    remove_files(folder_, locked->own);
    // A store's folder goes with the store, whoever made it.
    if (unfinished_.folders.empty()) unfinished_.folders.push_back(folder_);
  }

  void refuse_foreign(const std::optional<FolderContent>& content) const {
    if (!content || content->foreign.empty()) return;
    throw Error(ErrorCode::kUsage,
                fmt::format("cannot make a store in {}: it holds {}, which is not a store's file; "
                            "name another folder",
                            folder_, content->foreign))
        .at_path(folder_);
  }

  Superblock write_manifest() {
    const AlignedBuffer buffer(manifest_bytes(manifest_));
    encode_manifest(manifest_, buffer.span());
    manifest_file_.write(buffer.span(), 0);
    manifest_file_.sync();
    return {.version = kStoreVersion,
            .generation = kGeneration,
            .uuid = manifest_.uuid,
            .manifest_bytes = buffer.size(),
            .manifest_digest = manifest_digest(buffer.span(), manifest_.uuid)};
  }

  void write_slot(const Superblock& super, unsigned slot) {
    const AlignedBuffer buffer(kSlotBytes);
    encode_slot(super, buffer.span());
    super_file_.write(buffer.span(), slot * kSlotBytes);
    super_file_.sync();
  }

  // Without direct I/O the data pass through the page cache; what is flushed leaves it again.
  void drop_cache() {
    constexpr Bytes kCacheMax = 64 * kMiB;
    if (data_.direct() || left_in_cache_ < kCacheMax) return;
    data_.sync();
    data_.drop_cache(0, manifest_.data_bytes);
    left_in_cache_ = 0;
  }

  // In this order: what was made is removed while the lock is held.
  FolderLock lock_;
  Unfinished unfinished_;
  std::string folder_;
  Manifest manifest_;
  std::vector<bool> written_;  // [chunks], as manifest_.extents
  File data_, manifest_file_, super_file_;
  Bytes left_in_cache_ = 0;
  bool committed_ = false;
};

}  // namespace

std::unique_ptr<StoreWriter> StoreWriter::create(const std::string& folder, const StoreSpec& spec) {
  return std::make_unique<Writer>(plain_folder(folder), spec);
}

}  // namespace headrace::swap
