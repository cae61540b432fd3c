#include "swap/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "swap/file.h"
#include "swap/folder.h"
#include "swap/manifest.h"

namespace headrace::swap {
namespace {

[[noreturn]] void throw_unusable(const std::string& folder, const std::string& why) {
  throw Error(
      ErrorCode::kFormat,
      fmt::format("cannot open the store {}: {}; run again to rebuild it, or remove it with "
                  "`headrace store remove {}`",
                  folder, why, folder))
      .at_path(folder);
}

class OpenStore final : public Store {
 public:
  explicit OpenStore(const std::string& folder) {
    const auto content = look_at_folder(folder);
    const bool is_store = content && (content->has_lock || !content->own.empty());
    if (!is_store) throw_unusable(folder, "there is none");
    lock_ = FolderLock::take(folder, LockMode::kShared);
    names_ = look_at_folder(folder).value_or(FolderContent{}).own;  // what holds while it is locked
    const SuperRead super = read_super_of(folder);
    metadata_bytes_read_ += super.bytes_read;
    read_manifest(folder, super);
    open_data(folder);
    info_.path = folder;
    info_.bytes = kSuperBytes + manifest_bytes(manifest_) + manifest_.data_bytes;
    info_.fingerprint = manifest_.fingerprint;
    info_.source = manifest_.source;
    info_.created_unix_s = manifest_.created_unix_s;
    info_.complete = true;
  }

  const StoreInfo& info() const override { return info_; }
  uint64_t uuid() const override { return manifest_.uuid; }
  std::string_view metadata() const override { return manifest_.metadata; }
  size_t objects() const override { return manifest_.objects(); }
  std::span<const Extent> extents(ObjectId object) const override {
    HEADRACE_ASSERT(object < manifest_.objects(),
                    fmt::format("{} of {}", object, manifest_.objects()));
    return manifest_.chunks(object);
  }
  const IoFiles& files() const override { return files_; }
  Bytes metadata_bytes_read() const override { return metadata_bytes_read_; }

 private:
  // The superblock, with at least one candidate of a version that this one reads.
  SuperRead read_super_of(const std::string& folder) const {
    if (!holds("super")) {
      throw_unusable(folder, "it is unfinished, because making it was interrupted");
    }
    SuperRead super = read_super(folder);
    if (super.candidates.empty()) {
      const bool empty =
          super.states[0] == SlotState::kEmpty && super.states[1] == SlotState::kEmpty;
      throw_unusable(folder, empty ? "it is unfinished, because making it was interrupted"
                                   : "its superblock is damaged or was never finished");
    }
    const uint32_t version = super.candidates.front().version;
    if (version > kStoreVersion) {
      // Not damage: what a newer one made is not for this one to replace.
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("cannot open the store {}: a newer Headrace made it (store format "
                              "{}, this one reads up to {}); use that one, give another --store, "
                              "or remove it with `headrace store remove {}`",
                              folder, version, kStoreVersion, folder))
          .at_path(folder);
    }
    if (version < kStoreVersion) {
      throw_unusable(folder, fmt::format("an older Headrace made it (store format {}, this one "
                                         "reads {})",
                                         version, kStoreVersion));
    }
    return super;
  }

  // The newest generation whose manifest is whole.
  void read_manifest(const std::string& folder, const SuperRead& super) {
    std::string why;
    for (const Superblock& candidate : super.candidates) {
      if (candidate.version != kStoreVersion) continue;
      try {
        read_generation(folder, candidate);
        return;
      } catch (const Error& error) {
        // A failing disk is not a damaged file: rebuilding would not help.
        if (error.code() != ErrorCode::kFormat) throw;
        if (why.empty()) why = error.what();
      }
    }
    throw_unusable(folder, why);
  }

  void read_generation(const std::string& folder, const Superblock& super) {
    const std::string path = manifest_path(folder, super.generation);
    const auto refuse = [&](const std::string& why) {
      throw Error(ErrorCode::kFormat, fmt::format("its manifest {} {}", path, why)).at_path(path);
    };
    if (!holds(path.substr(folder.size() + 1))) refuse("is missing");
    File file = File::open(path);
    const Bytes bytes = file.size();
    if (bytes != super.manifest_bytes || bytes % kBlock != 0 || bytes == 0 ||
        bytes > kManifestMax) {
      refuse(fmt::format("has {} bytes instead of {}", bytes, super.manifest_bytes));
    }
    const AlignedBuffer buffer(bytes);
    file.read(buffer.span(), 0);
    metadata_bytes_read_ += bytes;
    if (manifest_digest(buffer.span(), super.uuid) != super.manifest_digest) {
      refuse("is damaged: its checksum does not match");
    }
    Manifest manifest = decode_manifest(buffer.span(), path);
    if (manifest.uuid != super.uuid || manifest.generation != super.generation) {
      refuse("belongs to another store");
    }
    manifest_ = std::move(manifest);
    info_.version = super.version;
  }

  void open_data(const std::string& folder) {
    if (!holds("data.0")) throw_unusable(folder, "its data.0 is missing");
    data_ = File::open(data_path(folder));
    if (data_.size() != manifest_.data_bytes) {
      throw_unusable(folder, fmt::format("its data.0 has {} bytes instead of {}", data_.size(),
                                         manifest_.data_bytes));
    }
    // Whether direct reads work shows at the first one only.
    if (data_.direct() && manifest_.data_bytes > 0) {
      const AlignedBuffer probe(kBlock);
      data_.read(probe.span(), 0);
      metadata_bytes_read_ += kBlock;
    }
    files_ = {.descriptors = {data_.descriptor()}, .direct = data_.direct()};
  }

  bool holds(std::string_view name) const {
    return std::find(names_.begin(), names_.end(), name) != names_.end();
  }

  FolderLock lock_;
  std::vector<std::string> names_;  // of the store's files in the folder
  Manifest manifest_;
  File data_;
  IoFiles files_;
  StoreInfo info_;
  Bytes metadata_bytes_read_ = 0;
};

}  // namespace

std::unique_ptr<Store> Store::open(const std::string& folder) {
  return std::make_unique<OpenStore>(plain_folder(folder));
}

std::string Store::file_path(uint32_t file) const {
  return fmt::format("{}/data.{}", info().path, file);
}

Bytes store_bytes(const StoreSpec& spec) {
  const Manifest manifest = lay_out(spec);
  return kSuperBytes + manifest_bytes(manifest) + manifest.data_bytes;
}

}  // namespace headrace::swap
