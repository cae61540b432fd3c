// What a crash, a kill or a failing disk at any moment of making a store leaves behind: the store
// that was there, the store that was made, or an error that says so. Never anything between.
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

#include "swap/manifest.h"
#include "swap/store.h"
#include "tests/swap/disk_recorder.h"
#include "tests/swap/store_fixture.h"

namespace headrace::swap {
namespace {

constexpr uint64_t kOldSeed = 100, kNewSeed = 200;

// In memory where there is such a place: thousands of small folders are made.
std::string scratch() {
  return std::filesystem::exists("/dev/shm") ? "/dev/shm"
                                             : std::filesystem::temp_directory_path().string();
}

std::vector<ObjectSpec> objects_of(std::vector<std::vector<Bytes>> blocks) {
  std::vector<ObjectSpec> objects(blocks.size());
  for (ObjectId id = 0; id < objects.size(); ++id) {
    objects[id].id = id;
    for (const Bytes n : blocks[id]) objects[id].chunks.push_back(n * kBlock);
  }
  return objects;
}

// Files of equal length, so that sizes alone never tell the two stores apart.
const std::vector<ObjectSpec> kOldObjects = objects_of({{1}, {3}});
const std::vector<ObjectSpec> kNewObjects = objects_of({{1, 1}, {2}});

StoreSpec old_spec() {
  return {.fingerprint = "old", .source = "s", .metadata = "{}", .objects = kOldObjects};
}
StoreSpec new_spec() {
  return {.fingerprint = "new", .source = "s", .metadata = "{}", .objects = kNewObjects};
}

// Where in the log the protocol's turning points lie.
struct Moments {
  size_t old_gone = 0;      // the first operation that may take the old store away
  size_t old_surely = 0;    // after it the old store cannot come back
  size_t new_possible = 0;  // the first write of the new superblock
  size_t new_surely = 0;    // its flush
};

Moments moments_of(const std::vector<DiskOp>& log, bool replaces) {
  using Kind = DiskOp::Kind;
  Moments moments;
  size_t i = 0;
  if (replaces) {
    while (log.at(i).kind != Kind::kUnlink || log[i].name != "super") ++i;
    moments.old_gone = i;
    while (log.at(i).kind != Kind::kSyncFolder) ++i;
    moments.old_surely = i + 1;
  }
  while (log.at(i).kind != Kind::kWrite || log[i].name != "super") ++i;
  moments.new_possible = i;
  while (log.at(i).kind != Kind::kSyncFile || log[i].name != "super") ++i;
  moments.new_surely = i + 1;
  return moments;
}

struct Tally {
  uint64_t images = 0, old_stores = 0, new_stores = 0, unfinished = 0, rebuilt = 0;
};

// The folder must be what a crash after `done` operations may leave.
void check_image(const std::string& folder, size_t done, const Moments& moments, bool replaces,
                 Tally& tally) {
  ++tally.images;
  try {
    const auto store = Store::open(folder);
    if (store->info().fingerprint == "old") {
      EXPECT_TRUE(replaces && done < moments.old_surely);
      expect_content(*store, kOldObjects, kOldSeed);
      ++tally.old_stores;
    } else {
      EXPECT_GT(done, moments.new_possible);
      expect_content(*store, kNewObjects, kNewSeed);
      ++tally.new_stores;
    }
    return;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
    EXPECT_LT(done, moments.new_surely) << error.what();
    EXPECT_FALSE(replaces && done <= moments.old_gone) << error.what();
    ++tally.unfinished;
  }
  if (tally.unfinished % 16 != 0) return;
  if (tally.unfinished % 32 == 0 && !std::filesystem::is_empty(folder)) {
    make_store(folder, new_spec(), kNewSeed);
    expect_content(*Store::open(folder), kNewObjects, kNewSeed);
    ++tally.rebuilt;
  }
  EXPECT_LE(list_stores(folder).size(), 1u);
}

// All subsets of what was not flushed where they are few, the extremes and random ones where not.
std::vector<std::vector<bool>> subsets(size_t units, Random& random, uint64_t samples) {
  std::vector<std::vector<bool>> all;
  if (units <= 8) {
    for (size_t mask = 0; mask < (size_t{1} << units); ++mask) {
      std::vector<bool> kept(units);
      for (size_t bit = 0; bit < units; ++bit) kept[bit] = (mask >> bit & 1) != 0;
      all.push_back(kept);
    }
    return all;
  }
  all.emplace_back(units, false);
  all.emplace_back(units, true);
  for (uint64_t i = 0; i < samples; ++i) {
    const double share = i % 3 == 0 ? 0.95 : i % 3 == 1 ? 0.5 : 0.05;
    std::vector<bool> kept(units);
    for (size_t bit = 0; bit < units; ++bit) kept[bit] = random.chance(share);
    all.push_back(kept);
  }
  return all;
}

void crash_everywhere(bool replaces) {
  const uint64_t seed = test::seed();
  SCOPED_TRACE(seed);
  Random random(seed);
  const TempFolder temp(scratch());
  const std::string folder = temp / "s";
  if (replaces) make_store(folder, old_spec(), kOldSeed);
  const DiskImage base = image_of(folder);
  start_recording(folder, base);
  make_store(folder, new_spec(), kNewSeed);
  const std::vector<DiskOp> log = stop_recording();
  const Moments moments = moments_of(log, replaces);
  ASSERT_LT(moments.new_surely, log.size());  // and the second slot after it
  Tally tally;
  for (size_t done = 0; done <= log.size(); ++done) {
    SCOPED_TRACE("crash after " + std::to_string(done) + " of " + std::to_string(log.size()));
    for (const auto& kept : subsets(unflushed(log, done), random, test::cases(200))) {
      make_folder(crash_image(base, log, done, kept), temp / "image");
      check_image(temp / "image", done, moments, replaces, tally);
      if (testing::Test::HasFailure()) return;
    }
  }
  std::printf("  %zu operations, %lu crash images: %lu old, %lu new, %lu unfinished, %lu rebuilt\n",
              log.size(), tally.images, tally.old_stores, tally.new_stores, tally.unfinished,
              tally.rebuilt);
  EXPECT_GT(tally.images, 500u);
  EXPECT_GT(tally.new_stores, 0u);
  EXPECT_GT(tally.unfinished, 0u);
  EXPECT_EQ(tally.old_stores > 0, replaces);
}

TEST(StoreCrash, NewStoreIsAllOrNothing) { crash_everywhere(false); }
TEST(StoreCrash, ReplacedStoreIsOldOrGoneOrNew) { crash_everywhere(true); }

// The recorder's own canary: with the flush of the data forgotten, some crash must show.
TEST(StoreCrash, ForgottenFlushesWouldShow) {
  const TempFolder temp(scratch());
  const std::string folder = temp / "s";
  start_recording(folder, {});
  make_store(folder, new_spec(), kNewSeed);
  std::vector<DiskOp> log = stop_recording();
  for (const std::string name : {"data.0", "manifest.1"}) {
    std::vector<DiskOp> weak;
    for (const DiskOp& op : log) {
      if (op.kind != DiskOp::Kind::kSyncFile || op.name != name) weak.push_back(op);
    }
    ASSERT_EQ(weak.size() + 1, log.size());
    const size_t units = unflushed(weak, weak.size());
    ASSERT_GT(units, 0u);
    make_folder(crash_image({}, weak, weak.size(), std::vector<bool>(units, false)), temp / "weak");
    bool whole = true;
    try {
      whole = verify_store(temp / "weak", nullptr).empty();
    } catch (const Error&) {
      whole = false;
    }
    EXPECT_FALSE(whole) << name;
  }
}

// Fails the n-th call of each kind, for every n. Returns how many faults were tried.
template <typename Body>
uint64_t fail_each(DiskCall call, int error, const std::string& folder, const Body& body) {
  for (uint64_t n = 0;; ++n) {
    SCOPED_TRACE("call " + std::to_string(static_cast<int>(call)) + " number " + std::to_string(n) +
                 " errno " + std::to_string(error));
    start_recording(folder, image_of(folder));
    inject_fault(call, n, error);
    body();
    stop_recording();
    if (!fault_fired() || testing::Test::HasFailure()) return n;
  }
}

TEST(StoreFaults, FailedCallsFailTheWriterAndLeaveNothing) {
  const TempFolder temp(scratch());
  const std::string folder = temp / "s";
  uint64_t tried = 0;
  for (const DiskCall call : {DiskCall::kOpen, DiskCall::kWrite, DiskCall::kReserve,
                              DiskCall::kSyncFile, DiskCall::kSyncFolder}) {
    for (const int error : {EIO, ENOSPC}) {
      tried += fail_each(call, error, folder, [&] {
        bool threw = false;
        try {
          make_store(folder, new_spec(), kNewSeed);
        } catch (const Error& e) {
          threw = true;
          EXPECT_EQ(e.code(), ErrorCode::kIo) << e.what();
          EXPECT_NE(std::string(e.what()).find(folder), std::string::npos) << e.what();
        }
        EXPECT_EQ(threw, fault_fired());
        EXPECT_EQ(std::filesystem::exists(folder), !threw);
        std::filesystem::remove_all(folder);
      });
    }
  }
  std::printf("  %lu faults tried\n", tried);
  EXPECT_GT(tried, 20u);
}

TEST(StoreFaults, InterruptedAndShortCallsAreContinued) {
  const TempFolder temp(scratch());
  const std::string folder = temp / "s";
  uint64_t tried = 0;
  const auto write_and_read = [&] {
    make_store(folder, new_spec(), kNewSeed);
    expect_content(*Store::open(folder), kNewObjects, kNewSeed);
    EXPECT_TRUE(verify_store(folder, nullptr).empty());
    remove_store(folder);
  };
  for (const DiskCall call : {DiskCall::kWrite, DiskCall::kRead}) {
    for (const int error : {EINTR, EAGAIN, 0})
      tried += fail_each(call, error, folder, write_and_read);
  }
  tried += fail_each(DiskCall::kReserve, EINTR, folder, write_and_read);
  // Filesystems that refuse direct I/O at the first transfer, or preallocation.
  tried += fail_each(DiskCall::kWrite, EINVAL, folder, write_and_read);
  tried += fail_each(DiskCall::kReserve, EOPNOTSUPP, folder, write_and_read);
  EXPECT_GT(tried, 30u);
}

TEST(StoreFaults, FailedReadsAreNotDamage) {
  const TempFolder temp(scratch());
  const std::string folder = temp / "s";
  make_store(folder, new_spec(), kNewSeed);
  uint64_t opened = 0, refused = 0;
  fail_each(DiskCall::kRead, EIO, folder, [&] {
    try {
      const auto store = Store::open(folder);
      EXPECT_EQ(store->info().fingerprint, "new");
      if (fault_fired()) ++opened;
    } catch (const Error& e) {
      EXPECT_TRUE(fault_fired());
      EXPECT_EQ(e.code(), ErrorCode::kIo) << e.what();
      ++refused;
    }
  });
  EXPECT_EQ(opened, 2u);   // one slot of two cannot be read,
  EXPECT_EQ(refused, 2u);  // or the manifest, or the data
  expect_content(*Store::open(folder), kNewObjects, kNewSeed);
}

TEST(StoreFaults, AKilledWriterLeavesAStoreOrAnUnfinishedOne) {
  const uint64_t seed = test::seed();
  SCOPED_TRACE(seed);
  Random random(seed);
  const TempFolder temp;  // a real disk
  const std::string folder = temp / "s";
  uint64_t whole = 0, unfinished = 0;
  for (uint64_t i = 0; i < test::cases(40); ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (;;) {
        make_store(folder, new_spec(), kNewSeed);
        std::filesystem::remove(folder + "/lock");  // as a copied store
      }
    }
    usleep(static_cast<useconds_t>(random.below(12000)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    try {
      const auto store = Store::open(folder);
      expect_content(*store, kNewObjects, kNewSeed);
      ++whole;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
      ++unfinished;
    }
  }
  std::printf("  %lu whole, %lu unfinished\n", whole, unfinished);
  make_store(folder, new_spec(), kNewSeed);  // the dead hold no lock
  expect_content(*Store::open(folder), kNewObjects, kNewSeed);
}

TEST(StoreFaults, AnotherProcessIsNamed) {
  const TempFolder temp;
  const std::string folder = temp / "s";
  int ready[2], done[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(done), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char byte = 0;
    const auto writer = StoreWriter::create(folder, new_spec());
    if (write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) < 0) _exit(1);
    _exit(0);  // no destructor: as if killed
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const Error error = error_of([&] { Store::open(folder); });
  EXPECT_EQ(error.code(), ErrorCode::kFailed);
  EXPECT_NE(std::string(error.what()).find(std::to_string(child)), std::string::npos)
      << error.what();
  ASSERT_EQ(write(done[1], &byte, 1), 1);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(error_of([&] { Store::open(folder); }).code(), ErrorCode::kFormat);
  ASSERT_EQ(list_stores(temp.path()).size(), 1u);
  remove_store(folder);
  EXPECT_TRUE(std::filesystem::is_empty(temp.path()));
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) close(fd);
}

}  // namespace
}  // namespace headrace::swap
