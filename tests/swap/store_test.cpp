// The sealed store as its users see it: what is written is read back, what is damaged is refused.
#include "swap/store.h"

#include <sys/stat.h>

#include <algorithm>
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
  const uint64_t count = test_count(30);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t seed = test_seed() + i;
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
  Random random(test_seed());
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

}  // namespace
}  // namespace headrace::swap
