// The sealed store as its users see it: what is written is read back, what is damaged is refused.
#include "swap/store.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "swap/manifest.h"
#include "tests/swap/store_fixture.h"

namespace headrace::swap {
namespace {

StoreSpec spec_of(std::span<const ObjectSpec> objects) {
  return {.fingerprint = "fp", .source = "/models/a", .metadata = "{\"x\":1}", .objects = objects};
}

Bytes bytes_on_disk(const std::string& folder) {
  Bytes sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) sum += entry.file_size();
  return sum;
}

TEST(Store, RandomObjectsComeBack) {
  const uint64_t count = test::cases(30);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t seed = test::seed() + i;
    SCOPED_TRACE(seed);
    Random random(seed);
    const TempFolder temp;
    const auto objects = random_objects(random, 12, 5, 40);
    StoreSpec spec = spec_of(objects);
    spec.metadata.assign(random.below(10000), 'm');
    const std::string folder = temp / "a/b";
    make_store(folder, spec, seed);
    const auto store = Store::open(folder + "/");
    expect_content(*store, objects, seed);
    EXPECT_EQ(store->metadata(), spec.metadata);
    EXPECT_EQ(store->info().fingerprint, "fp");
    EXPECT_EQ(store->info().source, "/models/a");
    EXPECT_EQ(store->info().path, folder);
    EXPECT_EQ(store->info().version, kStoreVersion);
    EXPECT_TRUE(store->info().complete);
    EXPECT_EQ(store->info().bytes, store_bytes(spec));
    EXPECT_EQ(bytes_on_disk(folder), store_bytes(spec));
    EXPECT_GE(store->metadata_bytes_read(), kSuperBytes + kBlock);
    EXPECT_EQ(store->metadata_bytes_read() % kBlock, 0u);
    EXPECT_EQ(store->files().descriptors.size(), 1u);
  }
}

TEST(Store, ReopeningGivesEqualDigestsAndAscendingOffsets) {
  Random random(test::seed());
  const TempFolder temp;
  const auto objects = random_objects(random, 20, 5, 10);
  make_store(temp / "s", spec_of(objects), 1);
  const auto a = Store::open(temp / "s");
  const auto b = Store::open(temp / "s");  // readers share
  EXPECT_EQ(a->uuid(), b->uuid());
  Bytes end = 0;
  for (const ObjectSpec& object : objects) {
    const auto left = a->extents(object.id), right = b->extents(object.id);
    ASSERT_EQ(left.size(), right.size());
    for (size_t i = 0; i < left.size(); ++i) {
      EXPECT_EQ(left[i].digest, right[i].digest);
      EXPECT_EQ(left[i].offset, end);
      end += left[i].bytes;
    }
  }
}

// A flipped byte of super or manifest either refuses the store or changes nothing that is read,
// and then verify_store reports it.
TEST(Store, EveryFlippedByteOfMetadataIsDetected) {
  Random random(test::seed());
  const TempFolder temp;
  const std::string folder = temp / "s";
  const auto objects = random_objects(random, 10, 4, 4);
  make_store(folder, spec_of(objects), 5);
  const uint64_t count = test::cases(300);
  uint64_t refused = 0, reported = 0;
  for (const std::string& path : {super_path(folder), manifest_path(folder, 1)}) {
    const std::string whole = read_all(path);
    for (uint64_t i = 0; i < count; ++i) {
      const size_t at = random.below(whole.size());
      SCOPED_TRACE(path + " at " + std::to_string(at));
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random.below(8)));
      write_all(path, damaged);
      try {
        const auto store = Store::open(folder);
        expect_content(*store, objects, 5);
        EXPECT_EQ(path, super_path(folder));
        EXPECT_EQ(verify_store(folder, nullptr).size(), 1u);
        ++reported;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
        EXPECT_NE(std::string(error.what()).find(folder), std::string::npos);
        ++refused;
      }
    }
    write_all(path, whole);
  }
  EXPECT_EQ(refused, count);   // the manifest has one copy,
  EXPECT_EQ(reported, count);  // the superblock has two
}

TEST(Store, BothSlotsDamagedAreRefused) {
  Random random(test::seed());
  const TempFolder temp;
  const auto objects = random_objects(random, 3, 2, 2);
  make_store(temp / "s", spec_of(objects), 5);
  std::string super = read_all(super_path(temp / "s"));
  super[20] ^= 1;
  super[kSlotBytes + 4000] ^= 1;
  write_all(super_path(temp / "s"), super);
  EXPECT_EQ(error_of([&] { Store::open(temp / "s"); }).code(), ErrorCode::kFormat);
}

TEST(Store, TruncatedAndMissingFilesAreRefused) {
  Random random(test::seed());
  const TempFolder temp;
  auto objects = random_objects(random, 3, 2, 2);
  objects[0].chunks = {kBlock, 3 * kBlock};
  for (const std::string name : {"super", "manifest.1", "data.0"}) {
    const std::string folder = temp / name;
    make_store(folder, spec_of(objects), 5);
    const Bytes size = std::filesystem::file_size(folder + "/" + name);
    for (const Bytes kept : {size - 1, size - kBlock, Bytes{1}, Bytes{0}}) {
      SCOPED_TRACE(name + " cut to " + std::to_string(kept));
      std::filesystem::resize_file(folder + "/" + name, kept);
      EXPECT_EQ(error_of([&] { Store::open(folder); }).code(), ErrorCode::kFormat);
    }
    std::filesystem::remove(folder + "/" + name);
    EXPECT_EQ(error_of([&] { Store::open(folder); }).code(), ErrorCode::kFormat);
    std::filesystem::create_symlink("/etc/passwd", folder + "/" + name);
    EXPECT_THROW(Store::open(folder), Error);
  }
  EXPECT_EQ(error_of([&] { Store::open(temp / "none"); }).code(), ErrorCode::kFormat);
}

// Writes a superblock and manifest that agree with each other, whatever they say.
void reseal(const std::string& folder, const Manifest& manifest, uint32_t version) {
  std::vector<std::byte> bytes(manifest_bytes(manifest)), slot(kSlotBytes);
  encode_manifest(manifest, bytes);
  const Superblock super{.version = version,
                         .generation = manifest.generation,
                         .uuid = manifest.uuid,
                         .manifest_bytes = bytes.size(),
                         .manifest_digest = manifest_digest(bytes, manifest.uuid)};
  encode_slot(super, slot);
  const std::string text(reinterpret_cast<const char*>(slot.data()), slot.size());
  write_all(super_path(folder), text + text);
  write_all(manifest_path(folder, manifest.generation),
            {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

TEST(Store, NewerVersionsSayWhatToDo) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0].id = 0;
  objects[0].chunks = {kBlock};
  make_store(temp / "s", spec_of(objects), 5);
  Manifest manifest = lay_out(spec_of(objects));
  manifest.generation = 1;
  for (const uint32_t version : {kStoreVersion + 1, 0xffffffffu, 0u}) {
    reseal(temp / "s", manifest, version);
    const Error error = error_of([&] { Store::open(temp / "s"); });
    EXPECT_EQ(error.code(), version > kStoreVersion ? ErrorCode::kUnsupported : ErrorCode::kFormat);
    const std::string what = error.what();
    EXPECT_NE(what.find("format " + std::to_string(version)), std::string::npos) << what;
    EXPECT_NE(what.find("headrace store remove"), std::string::npos) << what;
  }
  const auto stores = list_stores(temp.path());
  ASSERT_EQ(stores.size(), 1u);
  EXPECT_FALSE(stores[0].complete);
}

// Tables that are sealed correctly and say what must not be.
TEST(Store, ImpossibleExtentsAreRefused) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(2);
  for (ObjectId id = 0; id < 2; ++id) objects[id] = {.id = id, .chunks = {kBlock, 2 * kBlock}};
  make_store(temp / "s", spec_of(objects), 5);
  Manifest good = lay_out(spec_of(objects));
  good.generation = 1;
  good.uuid = 77;
  reseal(temp / "s", good, kStoreVersion);
  EXPECT_NO_THROW(Store::open(temp / "s"));
  const std::vector<std::pair<std::string, void (*)(Manifest&)>> cases{
      {"overlap", [](Manifest& m) { m.extents[1].offset -= kBlock; }},
      {"same", [](Manifest& m) { m.extents[1] = m.extents[0]; }},
      {"outside", [](Manifest& m) { m.extents[3].offset += kBlock; }},
      {"far outside", [](Manifest& m) { m.extents[3].offset = ~Bytes{0} - kBlock + 1; }},
      {"wraps", [](Manifest& m) { m.extents[3].bytes = ~Bytes{0} - kBlock + 1; }},
      {"odd offset", [](Manifest& m) { m.extents[3].offset += 512; }},
      {"odd bytes", [](Manifest& m) { m.extents[3].bytes -= 1; }},
      {"empty", [](Manifest& m) { m.extents[3].bytes = 0; }},
      {"data file", [](Manifest& m) { m.data_bytes += kBlock; }},
      {"odd data file", [](Manifest& m) { m.data_bytes += 1; }},
      {"more chunks", [](Manifest& m) { m.extents.pop_back(); }},
      {"fewer chunks", [](Manifest& m) { m.first.back() -= 1; }},
  };
  for (const auto& [name, change] : cases) {
    SCOPED_TRACE(name);
    Manifest bad = good;
    change(bad);
    reseal(temp / "s", bad, kStoreVersion);
    const Error error = error_of([&] { Store::open(temp / "s"); });
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
  }
  // Another store's manifest, sealed by this one's superblock.
  Manifest foreign = good;
  reseal(temp / "s", foreign, kStoreVersion);
  const std::string super = read_all(super_path(temp / "s"));
  foreign.uuid = 78;
  reseal(temp / "s", foreign, kStoreVersion);
  write_all(super_path(temp / "s"), super);
  EXPECT_EQ(error_of([&] { Store::open(temp / "s"); }).code(), ErrorCode::kFormat);
}

TEST(Store, NewestWholeGenerationHolds) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0] = {.id = 0, .chunks = {kBlock}};
  make_store(temp / "s", spec_of(objects), 5);
  Manifest manifest = lay_out(spec_of(objects));
  manifest.uuid = 9;
  std::string slots[2];
  for (const uint64_t generation : {3u, 4u}) {
    manifest.generation = generation;
    manifest.fingerprint = "generation " + std::to_string(generation);
    reseal(temp / "s", manifest, kStoreVersion);
    slots[generation - 3] = read_all(super_path(temp / "s")).substr(0, kSlotBytes);
  }
  write_all(super_path(temp / "s"), slots[0] + slots[1]);
  EXPECT_EQ(Store::open(temp / "s")->info().fingerprint, "generation 4");
  write_all(super_path(temp / "s"), slots[1] + slots[0]);
  EXPECT_EQ(Store::open(temp / "s")->info().fingerprint, "generation 4");
  std::string damaged = read_all(manifest_path(temp / "s", 4));
  damaged[1000] ^= 1;
  write_all(manifest_path(temp / "s", 4), damaged);
  EXPECT_EQ(Store::open(temp / "s")->info().fingerprint, "generation 3");
}

TEST(Checksum, BindsChunksToTheirPlace) {
  Random random(test::seed());
  std::vector<std::byte> data(3 * kBlock);
  fill_chunk(data, 1, 2, 3);
  std::set<uint64_t> digests;
  uint64_t tried = 0;
  for (const uint64_t uuid : {1ull, 2ull, 1ull << 32, ~0ull}) {
    for (const ObjectId object : {0u, 1u, 2u, 1u << 31}) {
      for (const uint32_t chunk : {0u, 1u, 2u, 1u << 31}) {
        digests.insert(checksum(data, uuid, object, chunk));
        ++tried;
      }
    }
  }
  EXPECT_EQ(digests.size(), tried);
  const uint64_t whole = checksum(data, 1, 2, 3);
  for (int i = 0; i < 200; ++i) {
    const size_t bit = random.below(data.size() * 8);
    data[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(checksum(data, 1, 2, 3), whole) << bit;
    data[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  EXPECT_EQ(checksum(data, 1, 2, 3), whole);
}

TEST(Store, TenThousandChunksOpenQuickly) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(100);
  for (ObjectId id = 0; id < objects.size(); ++id) {
    objects[id].id = id;
    objects[id].chunks.assign(100, kBlock);
  }
  auto writer = StoreWriter::create(temp / "s", spec_of(objects));
  const AlignedBuffer same(kBlock);
  for (const ObjectSpec& object : objects) {
    for (uint32_t chunk = 0; chunk < 100; ++chunk) writer->write(object.id, chunk, same.span());
  }
  writer->commit();
  const auto begin = std::chrono::steady_clock::now();
  const auto store = Store::open(temp / "s");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  RecordProperty("open_us", static_cast<int>(took.count() * 1e6));
  EXPECT_LT(took.count(), 1.0);
  EXPECT_EQ(store->extents(99).size(), 100u);
  // The superblock, 24 bytes a chunk and 4 an object, and a block to learn whether reads are
  // direct.
  EXPECT_LE(store->metadata_bytes_read(), kSuperBytes + 24 * 10000 + 3 * kBlock);
}

TEST(StoreDeathTest, ProgrammersErrorsAreAssertions) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0] = {.id = 0, .chunks = {kBlock, kBlock}};
  const AlignedBuffer block(2 * kBlock);
  const auto writer = StoreWriter::create(temp / "s", spec_of(objects));
  writer->write(0, 0, block.span().first(kBlock));
  EXPECT_DEATH(writer->write(0, 0, block.span().first(kBlock)), "written_");
  EXPECT_DEATH(writer->write(0, 2, block.span().first(kBlock)), "chunk");
  EXPECT_DEATH(writer->write(1, 0, block.span().first(kBlock)), "object");
  EXPECT_DEATH(writer->write(0, 1, block.span()), "bytes");
  EXPECT_DEATH(writer->write(0, 1, block.span().subspan(8, kBlock)), "kBlock");
  EXPECT_DEATH(writer->commit(), "never written");
}

}  // namespace
}  // namespace headrace::swap
