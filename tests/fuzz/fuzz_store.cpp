// The store's superblock and manifest: what they accept lies inside the data file, in order and
// without overlap, and survives writing and reading again.
#include <algorithm>
#include <cstring>

#include "swap/manifest.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string manifest_of(std::vector<std::vector<Bytes>> blocks, const std::string& metadata) {
  std::vector<ObjectSpec> objects(blocks.size());
  for (ObjectId id = 0; id < objects.size(); ++id) {
    objects[id].id = id;
    for (const Bytes n : blocks[id]) objects[id].chunks.push_back(n * kBlock);
  }
  swap::Manifest manifest = swap::lay_out(
      {.fingerprint = "fp", .source = "/m", .metadata = metadata, .objects = objects});
  manifest.generation = 1;
  manifest.uuid = 0x0123456789abcdef;
  std::vector<std::byte> bytes(swap::manifest_bytes(manifest));
  swap::encode_manifest(manifest, bytes);
  return text_of(bytes);
}

void check(const swap::Manifest& manifest) {
  FUZZ_CHECK(manifest.first.front() == 0 && manifest.first.back() == manifest.extents.size());
  FUZZ_CHECK(std::is_sorted(manifest.first.begin(), manifest.first.end()));
  Bytes end = 0;
  for (ObjectId object = 0; object < manifest.objects(); ++object) {
    for (const swap::Extent& extent : manifest.chunks(object)) {
      FUZZ_CHECK(extent.bytes > 0 && extent.bytes % kBlock == 0 && extent.offset % kBlock == 0);
      FUZZ_CHECK(extent.file == 0 && extent.offset >= end);
      FUZZ_CHECK(extent.bytes <= manifest.data_bytes);
      FUZZ_CHECK(extent.offset <= manifest.data_bytes - extent.bytes);
      end = extent.offset + extent.bytes;
    }
  }
  std::vector<std::byte> bytes(swap::manifest_bytes(manifest));
  swap::encode_manifest(manifest, bytes);
  const swap::Manifest again = swap::decode_manifest(bytes, "written");
  std::vector<std::byte> twice(bytes.size());
  swap::encode_manifest(again, twice);
  FUZZ_CHECK(bytes == twice);
}

// A slot that is accepted says the same when it is written again.
void check_slot(std::span<const std::byte> input) {
  std::vector<std::byte> slot(swap::kSlotBytes);
  std::copy_n(input.begin(), std::min(input.size(), slot.size()), slot.begin());
  swap::Superblock super;
  if (swap::decode_slot(slot, super) != swap::SlotState::kValid) return;
  std::vector<std::byte> written(swap::kSlotBytes);
  swap::encode_slot(super, written);
  swap::Superblock again;
  FUZZ_CHECK(swap::decode_slot(written, again) == swap::SlotState::kValid && again == super);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::byte> slot(swap::kSlotBytes);
  swap::encode_slot({.generation = 7, .uuid = 9, .manifest_bytes = kBlock, .manifest_digest = 5},
                    slot);
  return {
      manifest_of({}, ""),
      manifest_of({{1}, {2, 3}, {}, {1}}, "{\"dtype\":\"float32\"}"),
      manifest_of(std::vector<std::vector<Bytes>>(40, {1, 2, 3, 4, 5}), std::string(5000, 'm')),
      text_of(slot),
  };
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  fuzz::check_slot({begin, size});
  std::vector<std::byte> blocks(begin, begin + size);
  blocks.resize(round_up(size, kBlock));  // what has no whole blocks is refused at once
  try {
    fuzz::check(swap::decode_manifest(blocks, "input"));
  } catch (const Error& e) {
    FUZZ_CHECK(e.code() == ErrorCode::kFormat, e.what());
  }
  return 0;
}
