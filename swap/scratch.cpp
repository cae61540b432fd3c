#include "swap/scratch.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <random>

#include "core/checked.h"
#include "core/error.h"
#include "swap/store.h"

namespace headrace::swap {
namespace {

[[noreturn]] void throw_no_room(const std::string& folder, Bytes bytes, Bytes free) {
  throw Error(ErrorCode::kInfeasible,
              fmt::format("{}: keys and values that do not fit into memory take {} of the disk, "
                          "which has {} free; free some, give another --store, more --kv-memory or "
                          "fewer tokens",
                          folder, format_bytes(bytes), format_bytes(free)))
      .at_path(folder)
      .requiring(bytes);
}

Bytes free_bytes(const std::string& folder) {
  struct statvfs status {};
  if (statvfs(folder.c_str(), &status) != 0) throw_io(folder, "look at the room in", errno);
  return Bytes{status.f_bavail} * status.f_frsize;
}

ScratchShape checked(const ScratchShape& shape) {
  HEADRACE_ASSERT(shape.block_bytes > 0 && shape.block_bytes % kBlock == 0);
  HEADRACE_ASSERT(shape.bytes().has_value() && shape.blocks > 0 && shape.arrays > 0);
  return shape;
}

uint64_t new_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

std::optional<Bytes> ScratchShape::bytes() const {
  return checked_mul(Bytes{arrays} * blocks, block_bytes);
}

Scratch::Scratch(const std::string& folder, const ScratchShape& shape)
    : folder_(folder), shape_(checked(shape)), seed_(new_seed()) {
  const Bytes bytes = *shape.bytes();
  const Bytes free = free_bytes(folder);
  if (bytes > free) throw_no_room(folder, bytes, free);
  file_ = File::nameless(folder);
  const int error = file_.try_reserve(bytes);
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {  // a quota, or somebody was faster
    throw_no_room(folder, bytes, std::min(free_bytes(folder), bytes - 1));
  }
  if (error != 0) throw_io(folder, fmt::format("reserve {} bytes in", bytes), error);
  file_.probe_direct();
  digests_.resize(size_t{shape.arrays} * shape.blocks);
  is_sealed_.resize(digests_.size());
}

uint64_t Scratch::digest(uint32_t array, uint32_t block, const std::byte* data) const {
  return checksum({data, shape_.block_bytes}, seed_, array, block);
}

void Scratch::seal(uint32_t array, uint32_t first, std::span<const std::byte> data) {
  const size_t count = data.size() / shape_.block_bytes;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t block = first + static_cast<uint32_t>(i);
    const size_t at = size_t{array} * shape_.blocks + block;
    digests_[at] = digest(array, block, data.data() + i * shape_.block_bytes);
    is_sealed_[at] = 1;
  }
}

std::optional<uint32_t> Scratch::differs(uint32_t array, uint32_t first,
                                         std::span<const std::byte> data) const {
  const size_t count = data.size() / shape_.block_bytes;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t block = first + static_cast<uint32_t>(i);
    const size_t at = size_t{array} * shape_.blocks + block;
    const uint64_t found = digest(array, block, data.data() + i * shape_.block_bytes);
    if (!is_sealed_[at] || digests_[at] != found) return block;
  }
  return std::nullopt;
}

}  // namespace headrace::swap
