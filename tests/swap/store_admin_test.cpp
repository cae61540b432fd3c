// Listing, verifying and removing stores, locks between processes, and disks that are too small.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "swap/busy.h"
#include "swap/manifest.h"
#include "swap/store.h"
#include "tests/swap/crippled.h"
#include "tests/swap/store_fixture.h"

namespace headrace::swap {
namespace {

namespace fs = std::filesystem;

std::vector<ObjectSpec> small_objects() {
  std::vector<ObjectSpec> objects(3);
  for (ObjectId id = 0; id < objects.size(); ++id) {
    objects[id] = {.id = id, .chunks = {2 * kBlock, 2 * kBlock, kBlock}};
  }
  return objects;
}

StoreSpec spec_of(std::span<const ObjectSpec> objects) {
  return {.fingerprint = "fp", .source = "/models/a", .metadata = "{}", .objects = objects};
}

bool says(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

void flip(const std::string& path, Bytes at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  char byte;
  file.seekg(static_cast<std::streamoff>(at)).get(byte);
  file.seekp(static_cast<std::streamoff>(at)).put(static_cast<char>(byte ^ 0x10));
}

TEST(Busy, WaitsForAWriterAsLongAsItWrites) {
  const TempFolder temp;
  const auto objects = small_objects();
  const std::string folder = temp / "s";
  EXPECT_FALSE(writer_at_work(folder));
  auto writer = StoreWriter::create(folder, spec_of(objects));
  EXPECT_TRUE(writer_at_work(folder));
  int ticks = 0;
  EXPECT_FALSE(wait_for_writer(folder, 0.25, [&] { ++ticks; }));  // one that has stopped writing
  EXPECT_GT(ticks, 1);
  std::thread finishes([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    write_chunks(*writer, objects, 1);
    writer->commit();
  });
  EXPECT_TRUE(wait_for_writer(folder, 60, [] {}));
  finishes.join();
  EXPECT_FALSE(writer_at_work(folder));
  const auto store = Store::open(folder);
  EXPECT_FALSE(writer_at_work(folder));  // readers are none
  writer = StoreWriter::create(temp / "t", spec_of(objects));
  writer.reset();  // gives up
  EXPECT_TRUE(wait_for_writer(temp / "t", 1, [] {}));
}

TEST(VerifyStore, NamesExactlyTheDamagedChunks) {
  for (uint64_t i = 0; i < test::cases(20); ++i) {
    const uint64_t seed = test::seed() + i;
    SCOPED_TRACE(seed);
    Random random(seed);
    const TempFolder temp;
    auto objects = random_objects(random, 6, 4, 12);
    objects[0].chunks.push_back(3 * kBlock);
    make_store(temp / "s", spec_of(objects), seed);
    EXPECT_TRUE(verify_store(temp / "s", nullptr).empty());
    std::vector<std::string> want;
    {
      const auto store = Store::open(temp / "s");
      for (ObjectId object = 0; object < store->objects(); ++object) {
        const auto extents = store->extents(object);
        for (uint32_t chunk = 0; chunk < extents.size(); ++chunk) {
          if (!random.chance(0.3)) continue;
          flip(data_path(temp / "s"), extents[chunk].offset + random.below(extents[chunk].bytes));
          want.push_back("object " + std::to_string(object) + " chunk " + std::to_string(chunk));
        }
      }
    }
    const auto damage = verify_store(temp / "s", nullptr);
    ASSERT_EQ(damage.size(), want.size());
    for (size_t k = 0; k < want.size(); ++k) {
      EXPECT_NE(damage[k].find(want[k] + ","), std::string::npos) << damage[k];
    }
  }
}

Bytes progress_done = 0, progress_total = 0, progress_calls = 0;

TEST(VerifyStore, ReportsProgressAndReadsThroughLargeChunks) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0] = {.id = 0, .chunks = {20 * kMiB, 5 * kBlock, 9 * kMiB}};  // windows are 8 MiB
  make_store(temp / "s", spec_of(objects), 3);
  progress_done = progress_total = progress_calls = 0;
  EXPECT_TRUE(verify_store(temp / "s", [](Bytes done, Bytes total) {
                EXPECT_GT(done, progress_done);
                progress_done = done;
                progress_total = total;
                ++progress_calls;
              }).empty());
  EXPECT_EQ(progress_done, objects[0].bytes());
  EXPECT_EQ(progress_total, objects[0].bytes());
  EXPECT_GE(progress_calls, 3u);
  flip(data_path(temp / "s"), 20 * kMiB + 5 * kBlock + 8 * kMiB + 77);
  EXPECT_EQ(verify_store(temp / "s", nullptr).size(), 1u);
}

TEST(VerifyStore, SwappedChunksAreDamaged) {
  const TempFolder temp;
  const auto objects = small_objects();
  make_store(temp / "s", spec_of(objects), 3);
  std::string data = read_all(data_path(temp / "s"));
  const std::string first = data.substr(0, 2 * kBlock);
  data.replace(0, 2 * kBlock, data.substr(2 * kBlock, 2 * kBlock));
  data.replace(2 * kBlock, 2 * kBlock, first);
  write_all(data_path(temp / "s"), data);
  EXPECT_EQ(verify_store(temp / "s", nullptr).size(), 2u);
}

TEST(VerifyStore, AnotherStoresDataAreDamaged) {
  const TempFolder temp;
  const auto objects = small_objects();
  make_store(temp / "a", spec_of(objects), 3);
  make_store(temp / "b", spec_of(objects), 4);  // the same sizes everywhere
  fs::copy_file(data_path(temp / "b"), data_path(temp / "a"), fs::copy_options::overwrite_existing);
  EXPECT_EQ(verify_store(temp / "a", nullptr).size(), 9u);
}

TEST(ListStores, FindsThoseBelowAndTheRootItself) {
  const TempFolder temp;
  const auto objects = small_objects();
  EXPECT_TRUE(list_stores(temp / "none").empty());
  EXPECT_TRUE(list_stores(temp.path()).empty());
  make_store(temp / "a", spec_of(objects), 3);
  make_store(temp / "b", spec_of(objects), 3);
  fs::create_directory(temp / "empty");
  fs::create_directory(temp / "other");
  write_all(temp / "other/data.0", "x");
  write_all(temp / "other/notes.txt", "x");
  const auto writer = StoreWriter::create(temp / "writing", spec_of(objects));
  flip(temp / "b/manifest.1", 9);
  const auto stores = list_stores(temp.path());
  ASSERT_EQ(stores.size(), 3u);
  EXPECT_EQ(stores[0].path, temp / "a");
  EXPECT_TRUE(stores[0].complete);
  EXPECT_EQ(stores[0].source, "/models/a");
  EXPECT_EQ(stores[0].bytes, store_bytes(spec_of(objects)));
  EXPECT_NEAR(static_cast<double>(stores[0].created_unix_s), static_cast<double>(time(nullptr)),
              60.0);
  EXPECT_EQ(stores[1].path, temp / "b");
  EXPECT_FALSE(stores[1].complete);
  EXPECT_EQ(stores[1].bytes, store_bytes(spec_of(objects)));
  EXPECT_EQ(stores[1].version, kStoreVersion);
  EXPECT_EQ(stores[2].path, temp / "writing");
  EXPECT_FALSE(stores[2].complete);
  const auto root = list_stores(temp / "a/");
  ASSERT_EQ(root.size(), 1u);
  EXPECT_EQ(root[0].path, temp / "a");
}

TEST(RemoveStore, RemovesStoresAndNothingElse) {
  const TempFolder temp;
  const auto objects = small_objects();
  make_store(temp / "a", spec_of(objects), 3);
  remove_store(temp / "a");
  EXPECT_FALSE(fs::exists(temp / "a"));
  EXPECT_EQ(error_of([&] { remove_store(temp / "a"); }).code(), ErrorCode::kUsage);

  fs::create_directory(temp / "empty");
  EXPECT_EQ(error_of([&] { remove_store(temp / "empty"); }).code(), ErrorCode::kUsage);
  fs::create_directory(temp / "other");
  write_all(temp / "other/data.0", "x");
  write_all(temp / "other/super", std::string(kSuperBytes, 'x'));
  write_all(temp / "other/notes.txt", "x");
  const Error error = error_of([&] { remove_store(temp / "other"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_TRUE(says(error, "notes.txt")) << error.what();
  EXPECT_TRUE(fs::exists(temp / "other/data.0"));
  EXPECT_TRUE(fs::exists(temp / "other/super"));
  EXPECT_FALSE(fs::exists(temp / "other/lock"));

  // An unfinished one: only a store's files, no superblock.
  fs::create_directory(temp / "unfinished");
  write_all(temp / "unfinished/data.0", "x");
  write_all(temp / "unfinished/lock", "");
  remove_store(temp / "unfinished");
  EXPECT_FALSE(fs::exists(temp / "unfinished"));

  // A damaged one beside somebody's file: the store goes, the file stays.
  make_store(temp / "b", spec_of(objects), 3);
  flip(temp / "b/super", 30);
  write_all(temp / "b/notes.txt", "x");
  remove_store(temp / "b");
  EXPECT_TRUE(fs::exists(temp / "b/notes.txt"));
  EXPECT_EQ(std::distance(fs::directory_iterator(temp / "b"), fs::directory_iterator()), 1);

  // Through a link: the folder goes, what the link's own place holds stays.
  make_store(temp / "c", spec_of(objects), 3);
  fs::create_directory_symlink(temp / "c", temp / "link");
  remove_store(temp / "link");
  EXPECT_FALSE(fs::exists(temp / "c"));
}

TEST(StoreLock, KeepsOthersOut) {
  const TempFolder temp;
  const auto objects = small_objects();
  auto writer = StoreWriter::create(temp / "s", spec_of(objects));
  for (const Error& error :
       {error_of([&] { StoreWriter::create(temp / "s", spec_of(objects)); }),
        error_of([&] { Store::open(temp / "s"); }), error_of([&] { remove_store(temp / "s"); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kFailed);
    EXPECT_TRUE(says(error, std::to_string(getpid()))) << error.what();
    EXPECT_TRUE(says(error, "is writing this store; wait for it")) << error.what();
  }
  write_chunks(*writer, objects, 3);
  EXPECT_EQ(error_of([&] { Store::open(temp / "s"); }).code(), ErrorCode::kFailed);
  writer->commit();  // lets go of the lock
  auto store = Store::open(temp / "s");
  for (const Error& error : {error_of([&] { StoreWriter::create(temp / "s", spec_of(objects)); }),
                             error_of([&] { remove_store(temp / "s"); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kFailed);
    EXPECT_TRUE(says(error, "reads it")) << error.what();
  }
  expect_content(*store, objects, 3);  // whoever was refused has changed nothing
  store.reset();
  writer = StoreWriter::create(temp / "s", spec_of(objects));  // replaces it
  writer.reset();
  EXPECT_FALSE(fs::exists(temp / "s"));
}

TEST(StoreLock, ReadersGoOnWhereThereCanBeNone) {
  const TempFolder temp;
  const auto objects = small_objects();
  make_store(temp / "s", spec_of(objects), 3);
  const auto opens = [&](uint32_t call, uint32_t error, uint32_t flags) {
    return in_child([&] {
      forbid(call, error, flags);
      expect_content(*Store::open(temp / "s"), objects, 3);
      return std::string(testing::Test::HasFailure() ? "other bytes" : "opened");
    });
  };
  for (const uint32_t error : {ENOLCK, ENOSYS, EOPNOTSUPP}) {
    EXPECT_EQ(opens(SYS_flock, error, 0), "opened");
    const std::string made = in_child([&] {
      forbid(SYS_flock, error);
      StoreWriter::create(temp / "s", spec_of(objects));
      return std::string("made");
    });
    EXPECT_TRUE(made.starts_with("error: cannot lock")) << made;
  }
  fs::remove(temp / "s/lock");  // as in a store that was copied
  for (const uint32_t error : {ENOSPC, EDQUOT, EPERM, EROFS}) {
    EXPECT_EQ(opens(SYS_openat, error, O_CREAT), "opened");
  }
  EXPECT_FALSE(fs::exists(temp / "s/lock"));
}

TEST(StoreWriter, LeavesNothingBehindWithoutCommit) {
  const TempFolder temp;
  const auto objects = small_objects();
  {
    auto writer = StoreWriter::create(temp / "x/y/s", spec_of(objects));
    write_chunks(*writer, objects, 3);
    EXPECT_TRUE(fs::exists(temp / "x/y/s/data.0"));
  }
  EXPECT_TRUE(fs::is_empty(temp.path()));
  fs::create_directory(temp / "mine");
  StoreWriter::create(temp / "mine", spec_of(objects));
  EXPECT_TRUE(fs::is_empty(temp / "mine"));  // the folder was there before: it stays
  write_all(temp / "mine/notes.txt", "x");
  const Error error = error_of([&] { StoreWriter::create(temp / "mine", spec_of(objects)); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_TRUE(says(error, "notes.txt")) << error.what();
  EXPECT_FALSE(fs::exists(temp / "mine/lock"));
}

// How many of a file's pages the page cache holds.
size_t pages_cached(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY);
  const size_t bytes = fs::file_size(path);
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  std::vector<unsigned char> in_core(bytes / kBlock);
  EXPECT_EQ(mincore(map, bytes, in_core.data()), 0);
  munmap(map, bytes);
  close(fd);
  return static_cast<size_t>(
      std::count_if(in_core.begin(), in_core.end(), [](unsigned char c) { return (c & 1) != 0; }));
}

TEST(StoreWriter, LeavesThePageCacheAlone) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0] = {.id = 0, .chunks = std::vector<Bytes>(16, kMiB)};
  make_store(temp / "s", spec_of(objects), 3);
  const bool direct = Store::open(temp / "s")->files().direct;
  if (!direct) GTEST_SKIP() << "no direct I/O in " << temp.path();
  EXPECT_TRUE(verify_store(temp / "s", nullptr).empty());
  for (const std::string name : {"/data.0", "/manifest.1", "/super"}) {
    EXPECT_EQ(pages_cached(temp / "s" + name), 0u) << name;
  }
  read_all(data_path(temp / "s"));
  EXPECT_GT(pages_cached(data_path(temp / "s")), 1000u);  // the counter sees what there is
}

TEST(StoreWriter, RefusesWhatTheDiskCannotHold) {
  const TempFolder temp;
  std::vector<ObjectSpec> objects(1);
  objects[0] = {.id = 0, .chunks = {Bytes{1} << 55}};
  const Error error = error_of([&] { StoreWriter::create(temp / "x/s", spec_of(objects)); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_TRUE(says(error, temp / "x/s")) << error.what();
  EXPECT_TRUE(says(error, "bytes are missing")) << error.what();
  EXPECT_TRUE(fs::is_empty(temp.path()));
  objects[0].chunks = {Bytes{1} << 62, Bytes{1} << 62, Bytes{1} << 63};
  EXPECT_EQ(error_of([&] { store_bytes(spec_of(objects)); }).code(), ErrorCode::kUnsupported);
}

TEST(StoreWriter, RefusesFilesPastTheProcessLimit) {
  const TempFolder temp;
  const auto objects = small_objects();
  struct rlimit old {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit small = old;
  small.rlim_cur = 5 * kBlock;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Error error = error_of([&] { StoreWriter::create(temp / "s", spec_of(objects)); });
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_TRUE(says(error, "ulimit -f")) << error.what();
  EXPECT_TRUE(fs::is_empty(temp.path()));
  make_store(temp / "s", spec_of(objects), 3);
}

// A small ext4 filesystem in a file, mounted for one test. Needs root and a loop device.
class LoopDisk {
 public:
  explicit LoopDisk(const TempFolder& temp) : image_(temp / "image"), mount_(temp / "disk") {
    fs::create_directory(mount_);
    std::ofstream(image_).close();
    fs::resize_file(image_, 16 * kMiB);
    if (geteuid() != 0) {
      why_ = "not root";
    } else if (run("mkfs.ext4 -q -m 0 -O ^has_journal '" + image_ + "'") != 0) {
      why_ = "mkfs.ext4 failed or is not installed";
    } else if (run("mount -o loop '" + image_ + "' '" + mount_ + "'") != 0) {
      why_ = "mounting a loop device is not allowed here";
    }
  }
  ~LoopDisk() {
    if (why_.empty()) run("umount '" + mount_ + "'");
  }
  const std::string& why() const { return why_; }  // empty when mounted
  const std::string& path() const { return mount_; }

 private:
  static int run(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str());
  }
  std::string image_, mount_, why_;
};

void fill_disk(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT, 0666);
  ASSERT_GE(fd, 0);
  const std::vector<char> block(64 * kKiB, 'f');
  for (size_t size = block.size(); size >= 512; size /= 2) {
    while (::write(fd, block.data(), size) == static_cast<ssize_t>(size)) {
    }
  }
  EXPECT_EQ(fsync(fd), 0);
  close(fd);
}

TEST(StoreWriter, FullDisks) {
  const TempFolder temp;
  const LoopDisk disk(temp);
  if (!disk.why().empty()) GTEST_SKIP() << "no ext4 loop disk: " << disk.why();
  const Bytes free = fs::space(disk.path()).available;
  std::vector<ObjectSpec> objects(1);
  // Too large by what statvfs says: refused, nothing made.
  objects[0] = {.id = 0, .chunks = {round_up(free, kBlock)}};
  Error error = error_of([&] { StoreWriter::create(disk.path() + "/s", spec_of(objects)); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_TRUE(says(error, "missing")) << error.what();
  EXPECT_FALSE(fs::exists(disk.path() + "/s"));

  // Fits: then filling the disk up hurts nobody, because all room was taken at the start.
  objects[0].chunks.assign(100, 16 * kBlock);
  auto writer = StoreWriter::create(disk.path() + "/s", spec_of(objects));
  fill_disk(disk.path() + "/filler");
  EXPECT_LT(fs::space(disk.path()).available, kBlock);
  write_chunks(*writer, objects, 4);
  writer->commit();
  writer.reset();
  expect_content(*Store::open(disk.path() + "/s"), objects, 4);

  // A full disk refuses a second store and keeps the first one.
  error = error_of([&] { StoreWriter::create(disk.path() + "/t", spec_of(objects)); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  expect_content(*Store::open(disk.path() + "/s"), objects, 4);
  // Replacing a store counts the room that the old one gives back.
  make_store(disk.path() + "/s", spec_of(objects), 5);
  expect_content(*Store::open(disk.path() + "/s"), objects, 5);
}

}  // namespace
}  // namespace headrace::swap
