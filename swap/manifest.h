// The bytes of a store's superblock and manifest (docs/format/store.md): encoded by the writer,
// decoded by everybody else. Pure functions over memory; what they decode is hostile until proven
// otherwise, and every size is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tier.h"
#include "swap/store.h"

namespace headrace::swap {

inline constexpr Bytes kSlotBytes = kBlock;  // one of the two slots of `super`
inline constexpr Bytes kSuperBytes = 2 * kSlotBytes;
inline constexpr Bytes kManifestMax = 1 * kGiB;  // 40 million chunks
inline constexpr Bytes kTextMax = 64 * kKiB;     // fingerprint, source
inline constexpr Bytes kMetadataMax = 256 * kMiB;

struct Superblock {
  uint32_t version = kStoreVersion;
  uint64_t generation = 0;  // names the manifest; the newest valid slot holds
  uint64_t uuid = 0;
  Bytes manifest_bytes = 0;  // a multiple of kBlock
  uint64_t manifest_digest = 0;
  bool operator==(const Superblock&) const = default;
};

enum class SlotState : uint8_t { kEmpty, kDamaged, kValid };  // kEmpty: zeros, never written

// `out` is kSlotBytes long.
void encode_slot(const Superblock& super, std::span<std::byte> out);
// Fills `super` when kValid; its version may then be another than ours.
SlotState decode_slot(std::span<const std::byte> slot, Superblock& super);
bool has_magic(std::span<const std::byte> slot);

struct Manifest {
  uint64_t generation = 0;
  uint64_t uuid = 0;
  int64_t created_unix_s = 0;
  std::string fingerprint, source, metadata;
  Bytes data_bytes = 0;         // length of data.0
  std::vector<uint32_t> first;  // [objects + 1] index into `extents`
  std::vector<Extent> extents;  // [chunks] by object, then chunk; offsets ascend

  size_t objects() const { return first.empty() ? 0 : first.size() - 1; }
  std::span<const Extent> chunks(ObjectId object) const {
    return std::span(extents).subspan(first[object], first[object + 1] - first[object]);
  }
};

// Places the chunks one after the other, in the order of the objects. Throws kUnsupported when the
// sizes pass what a store can hold.
Manifest lay_out(const StoreSpec& spec);

Bytes manifest_bytes(const Manifest& manifest);  // on disk, a multiple of kBlock
void encode_manifest(const Manifest& manifest, std::span<std::byte> out);
// Throws kFormat naming `path`.
Manifest decode_manifest(std::span<const std::byte> bytes, const std::string& path);
uint64_t manifest_digest(std::span<const std::byte> bytes, uint64_t uuid);

std::string super_path(const std::string& folder);
std::string data_path(const std::string& folder);
std::string manifest_path(const std::string& folder, uint64_t generation);

}  // namespace headrace::swap
