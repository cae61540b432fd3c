// A store for tests of reading: objects at random places of images that live in memory and, where
// asked, in files. Making one is cheap, because all images begin as the same random megabytes.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "swap/file.h"
#include "swap/pager.h"
#include "swap/store.h"
#include "tests/support/seed.h"
#include "tests/swap/store_fixture.h"

namespace headrace::swap {

inline constexpr Bytes kImageBytesMost = 4 * kMiB;

inline std::span<const std::byte> random_bytes() {
  static const AlignedBuffer bytes = [] {
    AlignedBuffer room(kImageBytesMost);
    fill_chunk(room.span(), 7, 0, 0);
    return room;
  }();
  return bytes.span();
}

struct ImageShape {
  uint32_t files = 1;
  uint32_t objects_most = 6;
  uint32_t chunks_most = 4;
  uint32_t blocks_most = 64;
  Bytes image_bytes = kImageBytesMost;
};

class ImageStore final : public Store {
 public:
  ImageStore(Random& random, const ImageShape& shape) : uuid_(random.next_u64()) {
    for (uint32_t i = 0; i < shape.files; ++i) {
      images_.push_back(std::make_unique<AlignedBuffer>(shape.image_bytes));
      std::memcpy(images_[i]->data(), random_bytes().data(), shape.image_bytes);
    }
    extents_.resize(random.between(1, shape.objects_most));
    for (ObjectId object = 0; object < extents_.size(); ++object) {
      extents_[object].resize(random.between(1, shape.chunks_most));
      for (uint32_t chunk = 0; chunk < extents_[object].size(); ++chunk) {
        Extent& extent = extents_[object][chunk];
        extent.file = static_cast<uint32_t>(random.below(shape.files));
        extent.bytes = random.between(1, shape.blocks_most) * kBlock;
        extent.offset = random.below((shape.image_bytes - extent.bytes) / kBlock + 1) * kBlock;
        extent.digest = checksum(truth(object, chunk), uuid_, object, chunk);
        most_ = std::max(most_, extent.bytes);
        chunks_.emplace_back(object, chunk);
      }
    }
  }

  // Writes the images to FOLDER/data.N and opens them for direct I/O where that is possible.
  void write_files(const std::string& folder) {
    info_.path = folder;
    for (size_t i = 0; i < images_.size(); ++i) {
      const std::string path = folder + "/data." + std::to_string(i);
      {
        File file = File::create(path);
        file.write(images_[i]->span(), 0);
        file.sync();
      }
      opened_.push_back(File::open(path));
      files_.descriptors.push_back(opened_.back().descriptor());
      files_.direct = opened_.back().direct();
    }
  }

  std::span<const std::byte> truth(ObjectId object, uint32_t chunk) const {
    const Extent& extent = extents_[object][chunk];
    return images_[extent.file]->span().subspan(extent.offset, extent.bytes);
  }
  std::vector<std::span<std::byte>> images() const {
    std::vector<std::span<std::byte>> spans;
    for (const auto& image : images_) spans.push_back(image->span());
    return spans;
  }
  Extent& extent(ObjectId object, uint32_t chunk) { return extents_[object][chunk]; }
  // All (object, chunk).
  const std::vector<std::pair<ObjectId, uint32_t>>& chunks() const { return chunks_; }
  Bytes most() const { return most_; }  // bytes of the largest chunk

  const StoreInfo& info() const override { return info_; }
  uint64_t uuid() const override { return uuid_; }
  std::string_view metadata() const override { return {}; }
  size_t objects() const override { return extents_.size(); }
  std::span<const Extent> extents(ObjectId object) const override { return extents_[object]; }
  const IoFiles& files() const override { return files_; }
  Bytes metadata_bytes_read() const override { return 0; }

 private:
  uint64_t uuid_;
  StoreInfo info_{.path = "store"};
  std::vector<std::unique_ptr<AlignedBuffer>> images_;
  std::vector<std::vector<Extent>> extents_;
  std::vector<std::pair<ObjectId, uint32_t>> chunks_;
  Bytes most_ = 0;
  std::vector<File> opened_;
  IoFiles files_;
};

}  // namespace headrace::swap
