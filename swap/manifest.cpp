#include "swap/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "swap/checksum.h"

namespace headrace::swap {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kSuperMagic[8] = {'H', 'R', 'A', 'C', 'E', 'S', 'U', 'P'};
constexpr char kManifestMagic[8] = {'H', 'R', 'A', 'C', 'E', 'M', 'A', 'N'};
constexpr Bytes kChecksumAt = kSlotBytes - 8;  // the same place in every version
constexpr Bytes kDataMax = uint64_t{1} << 62;  // sums of two offsets do not wrap

struct SlotHead {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t generation;
  uint64_t uuid;
  uint64_t manifest_bytes;
  uint64_t manifest_digest;
};
static_assert(sizeof(SlotHead) == 48);

struct ManifestHead {
  char magic[8];
  uint32_t version;
  uint32_t objects;
  uint64_t chunks;
  uint64_t generation;
  uint64_t uuid;
  int64_t created_unix_s;
  uint64_t data_bytes;
  uint32_t fingerprint_bytes;
  uint32_t source_bytes;
  uint64_t metadata_bytes;
};
static_assert(sizeof(ManifestHead) == 72);

struct ChunkEntry {
  uint64_t offset;
  uint64_t bytes;
  uint64_t digest;
};
static_assert(sizeof(ChunkEntry) == 24);

// Where the parts of a manifest begin; each at a multiple of 8.
struct Parts {
  Bytes texts = sizeof(ManifestHead);
  Bytes counts = 0;
  Bytes entries = 0;
  Bytes end = 0;
};

// nullopt when a sum or product passes 64 bits.
std::optional<Parts> parts_of(const ManifestHead& head) {
  Parts parts;
  const auto texts =
      checked_add(uint64_t{head.fingerprint_bytes} + head.source_bytes, head.metadata_bytes);
  const auto texts_end = texts ? checked_add(parts.texts, *texts) : std::nullopt;
  const auto entries_bytes = checked_mul(head.chunks, sizeof(ChunkEntry));
  if (!texts_end || *texts_end > kDataMax || !entries_bytes) return std::nullopt;
  parts.counts = round_up(*texts_end, 8);
  parts.entries = round_up(parts.counts + uint64_t{head.objects} * sizeof(uint32_t), 8);
  const auto end = checked_add(parts.entries, *entries_bytes);
  if (!end) return std::nullopt;
  parts.end = *end;
  return parts;
}

ManifestHead head_of(const Manifest& manifest) {
  ManifestHead head{};
  std::memcpy(head.magic, kManifestMagic, sizeof head.magic);
  head.version = kStoreVersion;
  head.objects = static_cast<uint32_t>(manifest.objects());
  head.chunks = manifest.extents.size();
  head.generation = manifest.generation;
  head.uuid = manifest.uuid;
  head.created_unix_s = manifest.created_unix_s;
  head.data_bytes = manifest.data_bytes;
  head.fingerprint_bytes = static_cast<uint32_t>(manifest.fingerprint.size());
  head.source_bytes = static_cast<uint32_t>(manifest.source.size());
  head.metadata_bytes = manifest.metadata.size();
  return head;
}

[[noreturn]] void throw_damaged(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kFormat, fmt::format("the store's manifest {} is damaged: {}", path, why))
      .at_path(path);
}

// The object table: how many chunks each object has. Fills manifest.first.
void decode_counts(std::span<const std::byte> table, const ManifestHead& head, Manifest& manifest,
                   const std::string& path) {
  manifest.first.reserve(size_t{head.objects} + 1);
  manifest.first.push_back(0);
  uint64_t sum = 0;
  for (uint32_t i = 0; i < head.objects; ++i) {
    uint32_t count;
    std::memcpy(&count, table.data() + uint64_t{i} * sizeof count, sizeof count);
    sum += count;
    if (sum > head.chunks) throw_damaged(path, "its objects have more chunks than it lists");
    manifest.first.push_back(static_cast<uint32_t>(sum));
  }
  if (sum != head.chunks) throw_damaged(path, "it lists chunks that no object has");
}

// The chunk table. Offsets must ascend, so that no two chunks overlap and a pass reads forward.
void decode_entries(std::span<const std::byte> table, const ManifestHead& head, Manifest& manifest,
                    const std::string& path) {
  manifest.extents.reserve(head.chunks);
  Bytes end = 0;
  for (uint64_t i = 0; i < head.chunks; ++i) {
    ChunkEntry entry;
    std::memcpy(&entry, table.data() + i * sizeof entry, sizeof entry);
    const auto next = checked_add(entry.offset, entry.bytes);
    if (entry.offset % kBlock != 0 || entry.bytes % kBlock != 0 || entry.bytes == 0) {
      throw_damaged(path, fmt::format("chunk {} has {} bytes at {}, which is not a multiple of {}",
                                      i, entry.bytes, entry.offset, kBlock));
    }
    if (entry.offset < end) {
      throw_damaged(path, fmt::format("chunk {} at {} overlaps the one before it, which ends at {}",
                                      i, entry.offset, end));
    }
    if (!next || *next > head.data_bytes) {
      throw_damaged(path, fmt::format("chunk {} has {} bytes at {}, outside the data file of {}", i,
                                      entry.bytes, entry.offset, head.data_bytes));
    }
    end = *next;
    manifest.extents.push_back(
        {.file = 0, .offset = entry.offset, .bytes = entry.bytes, .digest = entry.digest});
  }
}

}  // namespace

void encode_slot(const Superblock& super, std::span<std::byte> out) {
  HEADRACE_ASSERT(out.size() == kSlotBytes);
  SlotHead head{};
  std::memcpy(head.magic, kSuperMagic, sizeof head.magic);
  head.version = super.version;
  head.generation = super.generation;
  head.uuid = super.uuid;
  head.manifest_bytes = super.manifest_bytes;
  head.manifest_digest = super.manifest_digest;
  std::fill(out.begin(), out.end(), std::byte{0});
  std::memcpy(out.data(), &head, sizeof head);
  const uint64_t digest = plain_digest(out.first(kChecksumAt), 0);
  std::memcpy(out.data() + kChecksumAt, &digest, sizeof digest);
}

bool has_magic(std::span<const std::byte> slot) {
  return slot.size() >= sizeof kSuperMagic &&
         std::memcmp(slot.data(), kSuperMagic, sizeof kSuperMagic) == 0;
}

SlotState decode_slot(std::span<const std::byte> slot, Superblock& super) {
  HEADRACE_ASSERT(slot.size() == kSlotBytes);
  const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
  if (std::all_of(slot.begin(), slot.end(), is_zero)) return SlotState::kEmpty;
  uint64_t digest;
  std::memcpy(&digest, slot.data() + kChecksumAt, sizeof digest);
  if (!has_magic(slot) || digest != plain_digest(slot.first(kChecksumAt), 0)) {
    return SlotState::kDamaged;
  }
  SlotHead head;
  std::memcpy(&head, slot.data(), sizeof head);
  super = {.version = head.version,
           .generation = head.generation,
           .uuid = head.uuid,
           .manifest_bytes = head.manifest_bytes,
           .manifest_digest = head.manifest_digest};
  return SlotState::kValid;
}

Manifest lay_out(const StoreSpec& spec) {
  const auto refuse = [](const std::string& why) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("cannot make a store: {}; use a smaller model", why));
  };
  Manifest manifest;
  manifest.fingerprint = spec.fingerprint;
  manifest.source = spec.source;
  manifest.metadata = spec.metadata;
  if (spec.fingerprint.size() > kTextMax || spec.source.size() > kTextMax ||
      spec.metadata.size() > kMetadataMax || spec.objects.size() >= kNone) {
    refuse("its description is too long");
  }
  manifest.first.reserve(spec.objects.size() + 1);
  manifest.first.push_back(0);
  Bytes offset = 0;
  for (const ObjectSpec& object : spec.objects) {
    HEADRACE_ASSERT(object.id + size_t{1} == manifest.first.size(), object.name);  // dense from 0
    for (const Bytes bytes : object.chunks) {
      HEADRACE_ASSERT(bytes > 0 && bytes % kBlock == 0, fmt::format("{}: {}", object.name, bytes));
      manifest.extents.push_back({.file = 0, .offset = offset, .bytes = bytes, .digest = 0});
      const auto next = checked_add(offset, bytes);
      if (!next || *next > kDataMax) refuse("its objects take more than 2^62 bytes");
      offset = *next;
    }
    if (manifest.extents.size() > std::numeric_limits<uint32_t>::max() ||
        manifest_bytes(manifest) > kManifestMax) {
      refuse("it has too many chunks");
    }
    manifest.first.push_back(static_cast<uint32_t>(manifest.extents.size()));
  }
  manifest.data_bytes = offset;
  return manifest;
}

Bytes manifest_bytes(const Manifest& manifest) {
  const auto parts = parts_of(head_of(manifest));
  HEADRACE_ASSERT(parts.has_value());  // sizes of what is in memory do not wrap
  return round_up(parts->end, kBlock);
}

void encode_manifest(const Manifest& manifest, std::span<std::byte> out) {
  const ManifestHead head = head_of(manifest);
  const Parts parts = *parts_of(head);
  HEADRACE_ASSERT(out.size() == round_up(parts.end, kBlock));
  std::fill(out.begin(), out.end(), std::byte{0});
  std::memcpy(out.data(), &head, sizeof head);
  std::byte* text = out.data() + parts.texts;
  for (const std::string* part : {&manifest.fingerprint, &manifest.source, &manifest.metadata}) {
    std::memcpy(text, part->data(), part->size());
    text += part->size();
  }
  for (size_t i = 0; i < manifest.objects(); ++i) {
    const uint32_t count = manifest.first[i + 1] - manifest.first[i];
    std::memcpy(out.data() + parts.counts + i * sizeof count, &count, sizeof count);
  }
  for (size_t i = 0; i < manifest.extents.size(); ++i) {
    const Extent& extent = manifest.extents[i];
    const ChunkEntry entry{extent.offset, extent.bytes, extent.digest};
    std::memcpy(out.data() + parts.entries + i * sizeof entry, &entry, sizeof entry);
  }
}

Manifest decode_manifest(std::span<const std::byte> bytes, const std::string& path) {
  ManifestHead head;
  if (bytes.size() < sizeof head) throw_damaged(path, "it is too short");
  std::memcpy(&head, bytes.data(), sizeof head);
  if (std::memcmp(head.magic, kManifestMagic, sizeof head.magic) != 0) {
    throw_damaged(path, "it does not begin as a manifest does");
  }
  if (head.version != kStoreVersion) throw_damaged(path, "its version is not the superblock's");
  const auto parts = parts_of(head);
  if (!parts || bytes.size() % kBlock != 0 || round_up(parts->end, kBlock) != bytes.size()) {
    throw_damaged(path, fmt::format("its tables do not fill its {} bytes", bytes.size()));
  }
  if (head.fingerprint_bytes > kTextMax || head.source_bytes > kTextMax ||
      head.metadata_bytes > kMetadataMax || head.objects == kNone || head.data_bytes > kDataMax ||
      head.data_bytes % kBlock != 0 || head.chunks > std::numeric_limits<uint32_t>::max()) {
    throw_damaged(path, "its sizes are out of range");
  }
  Manifest manifest;
  manifest.generation = head.generation;
  manifest.uuid = head.uuid;
  manifest.created_unix_s = head.created_unix_s;
  manifest.data_bytes = head.data_bytes;
  const char* text = reinterpret_cast<const char*>(bytes.data() + parts->texts);
  manifest.fingerprint.assign(text, head.fingerprint_bytes);
  manifest.source.assign(text + head.fingerprint_bytes, head.source_bytes);
  manifest.metadata.assign(text + head.fingerprint_bytes + head.source_bytes, head.metadata_bytes);
  decode_counts(bytes.subspan(parts->counts), head, manifest, path);
  decode_entries(bytes.subspan(parts->entries), head, manifest, path);
  return manifest;
}

uint64_t manifest_digest(std::span<const std::byte> bytes, uint64_t uuid) {
  return plain_digest(bytes, uuid);
}

std::string super_path(const std::string& folder) { return folder + "/super"; }
std::string data_path(const std::string& folder) { return folder + "/data.0"; }
std::string manifest_path(const std::string& folder, uint64_t generation) {
  return fmt::format("{}/manifest.{}", folder, generation);
}

}  // namespace headrace::swap
