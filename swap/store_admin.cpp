#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "swap/checksum.h"
#include "swap/file.h"
#include "swap/folder.h"
#include "swap/manifest.h"
#include "swap/store.h"

namespace headrace::swap {
namespace {

// True when one of the slots of FOLDER/super begins as a store's does, whatever else is wrong.
bool super_is_ours(const std::string& folder) {
  try {
    File file = File::open(super_path(folder));
    const Bytes bytes = round_down(std::min(file.size(), kSuperBytes), kSlotBytes);
    if (bytes == 0) return false;
    const AlignedBuffer buffer(bytes);
    file.read(buffer.span(), 0);
    for (Bytes at = 0; at < bytes; at += kSlotBytes) {
      if (has_magic(buffer.span().subspan(at))) return true;
    }
  } catch (const Error&) {  // none, not a file, not readable
  }
  return false;
}

// A store, whole or not: its superblock says so, or there is nothing in it but a store's files.
bool is_store(const std::string& folder, const FolderContent& content) {
  if (content.own.empty()) return false;
  return content.foreign.empty() || super_is_ours(folder);
}

StoreInfo info_of(const std::string& folder, const FolderContent& content) {
  try {
    return Store::open(folder)->info();
  } catch (const Error&) {  // unfinished, damaged, newer, or being written now
  }
  StoreInfo info;
  info.path = folder;
  info.bytes = content.bytes;
  try {
    const SuperRead super = read_super(folder);
    if (!super.candidates.empty()) info.version = super.candidates.front().version;
  } catch (const Error&) {  // then its version is unknown
  }
  return info;
}

// Reads a data file forward through one buffer that spans chunks.
class Scanner {
 public:
  Scanner(File file, Bytes file_bytes)
      : file_(std::move(file)), file_bytes_(file_bytes), buffer_(kWindow) {}

  // Feeds [offset, offset + bytes) to `sum`. Throws what reading throws.
  void feed(Bytes offset, Bytes bytes, ChunkChecksum& sum) {
    const Bytes end = offset + bytes;
    while (offset < end) {
      if (offset < begin_ || offset >= end_) fill(offset, end);
      const Bytes step = std::min(end, end_) - offset;
      sum.add(buffer_.span().subspan(offset - begin_, step));
      offset += step;
    }
  }

 private:
  static constexpr Bytes kWindow = 8 * kMiB;

  void fill(Bytes offset, Bytes chunk_end) {
    const Bytes most = std::min(kWindow, file_bytes_ - offset);
    end_ = begin_ = offset;
    try {
      file_.read(buffer_.span().first(most), offset);
      end_ = offset + most;
    } catch (const Error&) {
      // The bad sector may lie in a later chunk: read this one alone before it is blamed.
      const Bytes own = std::min(most, chunk_end - offset);
      file_.read(buffer_.span().first(own), offset);
      end_ = offset + own;
    }
    file_.drop_cache(begin_, end_);
  }

  File file_;
  Bytes file_bytes_;
  AlignedBuffer buffer_;
  Bytes begin_ = 0, end_ = 0;  // what the buffer holds
};

void verify_slots(const std::string& folder, std::vector<std::string>& damage) {
  const SuperRead super = read_super(folder);
  for (size_t i = 0; i < super.states.size(); ++i) {
    if (super.states[i] != SlotState::kDamaged) continue;
    damage.push_back(
        fmt::format("super: slot {} is damaged (the other one is whole)", i == 0 ? 'A' : 'B'));
  }
}

}  // namespace

std::vector<StoreInfo> list_stores(const std::string& root_folder) {
  const std::string root = plain_folder(root_folder);
  std::vector<std::string> folders{root};
  std::error_code error;
  for (std::filesystem::directory_iterator at(root, error), end; !error && at != end;
       at.increment(error)) {
    std::error_code ignored;
    if (at->is_directory(ignored)) folders.push_back(at->path().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw_io(root, "list", error.value());
  }
  std::sort(folders.begin(), folders.end());
  std::vector<StoreInfo> stores;
  for (const std::string& folder : folders) {
    std::optional<FolderContent> content;
    try {
      content = look_at_folder(folder);
    } catch (const Error&) {  // a neighbour that we may not read is not ours
    }
    if (content && is_store(folder, *content)) stores.push_back(info_of(folder, *content));
  }
  return stores;
}

std::vector<std::string> verify_store(const std::string& folder, void (*progress)(Bytes, Bytes)) {
  const auto store = Store::open(folder);
  const std::string& path = store->info().path;
  std::vector<std::string> damage;
  verify_slots(path, damage);
  File file = File::open(data_path(path));
  const Bytes file_bytes = file.size();
  Scanner scanner(std::move(file), file_bytes);
  ChunkChecksum sum;
  Bytes total = 0, done = 0;
  for (ObjectId object = 0; object < store->objects(); ++object) {
    for (const Extent& extent : store->extents(object)) total += extent.bytes;
  }
  for (ObjectId object = 0; object < store->objects(); ++object) {
    const auto extents = store->extents(object);
    for (uint32_t chunk = 0; chunk < extents.size(); ++chunk) {
      const Extent& extent = extents[chunk];
      const std::string where = fmt::format("data.0: object {} chunk {}, {} bytes at {}", object,
                                            chunk, extent.bytes, extent.offset);
      try {
        sum.begin(store->uuid(), object, chunk);
        scanner.feed(extent.offset, extent.bytes, sum);
        if (sum.end() != extent.digest) damage.push_back(where + ": the checksum does not match");
      } catch (const Error& error) {
        damage.push_back(fmt::format("{}: {}", where, error.what()));
      }
      done += extent.bytes;
      if (progress != nullptr) progress(done, total);
    }
  }
  return damage;
}

void remove_store(const std::string& folder) {
  const auto refuse = [&](std::string_view why) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{} is not a store: {}; nothing was removed", folder, why))
        .at_path(folder);
  };
  // Links are resolved first, so that the folder itself goes and not the link to it.
  const std::unique_ptr<char, decltype(&std::free)> real(
      realpath(plain_folder(folder).c_str(), nullptr), std::free);
  if (!real) {
    if (errno != ENOENT) throw_io(folder, "find", errno);
    refuse("there is no such folder");
  }
  const std::string path = real.get();
  const auto content = look_at_folder(path);
  if (!content) refuse("it is not a folder");
  if (!is_store(path, *content)) {
    refuse(content->own.empty() ? "it has none of a store's files"
                                : fmt::format("it holds {} and no superblock", content->foreign));
  }
  const FolderLock lock = FolderLock::take(path, LockMode::kExclusive);
  remove_files(path, look_at_folder(path).value_or(FolderContent{}).own);
  remove_file(path + "/lock");
  // What is not a store's file stays, and with it the folder.
  if (rmdir(path.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST) {
    throw_io(path, "remove", errno);
  }
}

}  // namespace headrace::swap
