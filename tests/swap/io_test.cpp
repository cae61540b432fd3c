// The real backends: what they read and count, and what they say when the system refuses them.
#include "swap/io.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "core/arena.h"
#include "tests/swap/crippled.h"
#include "tests/swap/pager_fixture.h"

namespace {

constexpr int kManyThreads = 1'000'000;
std::atomic<int> g_threads_left{kManyThreads};

}  // namespace

// Stands before the system's: refuses as it does where a user has as many threads as it may.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*body)(void*), void* argument) noexcept {
  if (g_threads_left.fetch_sub(1) <= 0) return EAGAIN;
  static const auto real =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, body, argument);
}

namespace headrace::swap {
namespace {

using ::testing::HasSubstr;

bool uring_works(const IoFiles& files) {
  try {
    open_io("io_uring", files, {});
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Bytes that this process has had fetched from the storage layer.
Bytes read_bytes_of_process() {
  std::ifstream in("/proc/self/io");
  std::string name;
  Bytes value = 0;
  while (in >> name >> value) {
    if (name == "read_bytes:") return value;
  }
  return 0;
}

TEST(Io, CountedBytesAreTheSystemsBytes) {
  for (const std::string engine : {"io_uring", "pread"}) {
    SCOPED_TRACE(engine);
    Random random(test::seed());
    TempFolder folder;
    ImageStore store(random, {.files = 2, .chunks_most = 8});
    store.write_files(folder.path());
    if (!store.files().direct || (engine == "io_uring" && !uring_works(store.files()))) {
      GTEST_SKIP() << "needs direct I/O and " << engine;
    }
    const Arena arena(store.most());
    const auto buffer = arena.span(0, arena.size());
    read_bytes_of_process();  // once before the mark: whatever it loads is loaded
    const Bytes before_open = read_bytes_of_process();
    const auto pager =
        make_pager(store, {.engine = engine, .request_bytes = 24 * kKiB, .buffers = {&buffer, 1}});
    EXPECT_EQ(read_bytes_of_process(), before_open) << "the probe read costs no bytes";
    Bytes bytes = 0;
    for (int i = 0; i < 100; ++i) {
      const auto [object, chunk] = store.chunks()[random.below(store.chunks().size())];
      pager->wait(pager->start({.object = object, .chunk = chunk, .target = arena.data()}));
      bytes += store.truth(object, chunk).size();
    }
    EXPECT_EQ(read_bytes_of_process() - before_open, bytes);
    EXPECT_EQ(pager->ledger().bytes({Tier::kDisk, Tier::kHost}, Kind::kWeights), bytes);
    EXPECT_EQ(pager->ledger().rows().size(), 1u);
    EXPECT_EQ(pager->caps().registered_buffers, engine == "io_uring");
  }
}

// Reads need not wait for the memory that they go to: buffers are registered once it is backed, and
// caps() says so from then on.
TEST(Io, BuffersAreRegisteredOnceTheyAreBacked) {
  Random random(test::seed());
  TempFolder folder;
  ImageStore store(random, {.files = 2, .chunks_most = 8});
  store.write_files(folder.path());
  if (!uring_works(store.files())) GTEST_SKIP() << "needs io_uring";
  const Arena arena(std::max<Bytes>(store.most(), 64 * kMiB));
  const auto buffer = arena.span(0, arena.size());
  std::vector<std::string> notes;
  const Prefault prefault({buffer}, 2);
  const auto pager = make_pager(store, {.engine = "io_uring",
                                        .buffers = {&buffer, 1},
                                        .prefault = &prefault,
                                        .note = [&](const std::string& s) { notes.push_back(s); }});
  const auto read = [&] {
    const auto [object, chunk] = store.chunks()[random.below(store.chunks().size())];
    const std::span<const std::byte> truth = store.truth(object, chunk);
    std::byte* const at = arena.data() + arena.size() - round_up(truth.size(), kHugePage);
    pager->wait(pager->start({.object = object, .chunk = chunk, .target = at}));
    ASSERT_EQ(std::memcmp(at, truth.data(), truth.size()), 0);
  };
  for (int i = 0; i < 20; ++i) read();
  prefault.wait();
  for (int i = 0; i < 20; ++i) read();
  EXPECT_EQ(pager->caps().registered_buffers, pager->caps().note.empty());
  EXPECT_EQ(notes.size(), pager->caps().note.empty() ? 0u : 1u);
}

TEST(Io, AnUnknownEngineIsAUsageError) {
  const Error error = error_of([] { open_io("mmap", {}, {}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("auto, io_uring or pread"));
}

TEST(Io, ReadsWithAsManyThreadsAsThereMayBe) {
  Random random(test::seed());
  TempFolder folder;
  ImageStore store(random, {});
  store.write_files(folder.path());
  const auto open = [&](int threads) {
    g_threads_left = threads;
    struct Restore {
      ~Restore() { g_threads_left = kManyThreads; }
    } restore;
    return open_blocking(store.files(), {});
  };
  const Error error = error_of([&] { open(0); });
  EXPECT_EQ(error.code(), ErrorCode::kFailed);
  EXPECT_THAT(error.what(), HasSubstr("; allow this user more of them (ulimit -u)"));
  const Arena arena(store.most());
  for (int threads = 1; threads < 4; ++threads) {
    SCOPED_TRACE(threads);
    const auto pager = make_pager(store, open(threads), {});
    for (const auto& [object, chunk] : store.chunks()) {
      pager->wait(pager->start({.object = object, .chunk = chunk, .target = arena.data()}));
      const auto truth = store.truth(object, chunk);
      ASSERT_EQ(std::memcmp(arena.data(), truth.data(), truth.size()), 0);
    }
  }
}

TEST(Io, WritesFlushesAndReadsBack) {
  for (const std::string engine : {"io_uring", "pread"}) {
    SCOPED_TRACE(engine);
    TempFolder folder;
    File file = File::create(folder / "data.0");
    file.reserve(kMiB);
    const IoFiles files{.descriptors = {file.descriptor()}, .direct = file.direct()};
    if (engine == "io_uring" && !uring_works(files)) continue;
    const auto backend = open_io(engine, files, {.operations_max = 4});
    const AlignedBuffer out(kMiB), in(kMiB);
    std::memcpy(out.data(), random_bytes().data(), kMiB);
    std::vector<IoCompletion> done;
    const auto move_all = [&](IoKind kind, std::byte* data) {
      constexpr Bytes kPiece = 64 * kKiB;
      for (Bytes at = 0; at < kMiB; at += kPiece) {
        const IoOp op{.kind = kind, .offset = at, .data = data + at, .bytes = kPiece, .user = at};
        while (backend->submit({&op, 1}) == 0) backend->poll(1, UINT64_MAX, done);
        EXPECT_LE(backend->in_flight(), 4u);
      }
      while (backend->in_flight() > 0) backend->poll(backend->in_flight(), UINT64_MAX, done);
      EXPECT_EQ(done.size(), kMiB / kPiece);
      for (const IoCompletion& completion : done) {
        EXPECT_EQ(completion.result, static_cast<int32_t>(kPiece));
      }
      done.clear();
    };
    move_all(IoKind::kWrite, out.data());
    const IoOp flush{.kind = IoKind::kFlush, .user = 9};
    ASSERT_EQ(backend->submit({&flush, 1}), 1u);
    backend->poll(1, UINT64_MAX, done);
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].result, 0);
    done.clear();
    move_all(IoKind::kRead, in.data());
    EXPECT_EQ(std::memcmp(in.data(), out.data(), kMiB), 0);
  }
}

// Taking a ring down does not stop the device: without the wait in the destructor this test finds
// the buffer overwritten.
TEST(Io, ClosingWaitsForWhatIsUnderWay) {
  TempFolder folder;
  File file = File::create(folder / "data.0");
  file.reserve(16 * kMiB);
  for (Bytes at = 0; at < 16 * kMiB; at += random_bytes().size()) file.write(random_bytes(), at);
  file.sync();
  const IoFiles files{.descriptors = {file.descriptor()}, .direct = file.direct()};
  const Arena arena(16 * kMiB);
  arena.touch();
  const auto buffer = arena.span(0, arena.size());
  for (const std::string engine : {"io_uring", "pread"}) {
    SCOPED_TRACE(engine);
    if (engine == "io_uring" && !uring_works(files)) continue;
    for (int round = 0; round < 8; ++round) {
      auto backend = open_io(engine, files, {.buffers = {&buffer, round % 2 == 0 ? 1u : 0u}});
      constexpr Bytes kPiece = 512 * kKiB;
      for (Bytes at = 0; at < buffer.size(); at += kPiece) {
        const IoOp op{.offset = at, .data = buffer.data() + at, .bytes = kPiece};
        ASSERT_EQ(backend->submit({&op, 1}), 1u);
      }
      backend.reset();
      // The last first: that is what a read under way would still write to.
      for (Bytes at = buffer.size(); at > 0; at -= kPiece) {
        std::memset(buffer.data() + at - kPiece, 0x5a, kPiece);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(15));
      ASSERT_TRUE(std::all_of(buffer.begin(), buffer.end(),
                              [](std::byte b) { return b == std::byte{0x5a}; }));
    }
  }
}

TEST(Io, WakeEndsAPollAndIsNotLost) {
  TempFolder folder;
  File file = File::create(folder / "data.0");
  const IoFiles files{.descriptors = {file.descriptor()}, .direct = file.direct()};
  for (const std::string engine : {"io_uring", "pread"}) {
    SCOPED_TRACE(engine);
    if (engine == "io_uring" && !uring_works(files)) continue;
    const auto backend = open_io(engine, files, {});
    std::vector<IoCompletion> done;
    backend->wake();  // before the poll: it must not sleep
    backend->poll(1, UINT64_MAX, done);
    std::thread waker([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      backend->wake();
    });
    backend->poll(1, UINT64_MAX, done);
    waker.join();
    const double begin = steady_clock().seconds();
    backend->poll(1, 20'000'000, done);
    EXPECT_GE(steady_clock().seconds() - begin, 0.019);
    EXPECT_TRUE(done.empty());
  }
}

std::string read_all_through(const ImageStore& store, const char* engine) {
  const Arena arena(16 * kMiB);  // made here, because arenas are not inherited
  const auto buffer = arena.span(0, arena.size());
  const auto pager = make_pager(store, {.engine = engine, .buffers = {&buffer, 1}});
  for (const auto& [object, chunk] : store.chunks()) {
    pager->wait(pager->start({.object = object, .chunk = chunk, .target = arena.data()}));
    const auto truth = store.truth(object, chunk);
    if (std::memcmp(arena.data(), truth.data(), truth.size()) != 0) return "wrong bytes";
  }
  return std::string(pager->caps().name) + "|" + pager->caps().note;
}

class IoRefused : public ::testing::Test {
 protected:
  IoRefused() : random_(test::seed()), store_(random_, {}) { store_.write_files(folder_.path()); }
  Random random_;
  TempFolder folder_;
  ImageStore store_;
};

TEST_F(IoRefused, SetupForbiddenFallsBackAndSaysWhy) {
  const std::string got = in_child([&] {
    forbid(SYS_io_uring_setup, EPERM);
    return read_all_through(store_, "auto");
  });
  EXPECT_THAT(got, HasSubstr("pread|reads use pread threads: cannot open io_uring"));
  EXPECT_THAT(got, ::testing::AnyOf(HasSubstr("seccomp"), HasSubstr("io_uring_disabled")));
}

TEST_F(IoRefused, SetupForbiddenIsAnErrorWhereIoUringWasAskedFor) {
  const std::string got = in_child([&] {
    forbid(SYS_io_uring_setup, EPERM);
    return read_all_through(store_, "io_uring");
  });
  EXPECT_THAT(got, HasSubstr("error: cannot open io_uring"));
}

TEST_F(IoRefused, AKernelWithoutIoUringFallsBack) {
  const std::string got = in_child([&] {
    forbid(SYS_io_uring_setup, ENOSYS);
    return read_all_through(store_, "auto");
  });
  EXPECT_THAT(got, HasSubstr("pread|"));
}

TEST_F(IoRefused, EnterForbiddenIsFoundByTheProbeRead) {
  const std::string got = in_child([&] {
    forbid(SYS_io_uring_enter, EPERM);
    return read_all_through(store_, "auto");
  });
  EXPECT_THAT(got, HasSubstr("pread|reads use pread threads: "));
}

TEST_F(IoRefused, RegisteringForbiddenFallsBackOrReadsUnregistered) {
  const std::string got = in_child([&] {
    forbid(SYS_io_uring_register, EPERM);
    return read_all_through(store_, "auto");
  });
  EXPECT_THAT(got, HasSubstr("pread|"));
}

TEST_F(IoRefused, SmallLockedMemoryReadsUnregisteredWithANote) {
  if (!uring_works(store_.files())) GTEST_SKIP() << "no io_uring here";
  const std::string got = in_child([&] {
    const rlimit limit{64 * kKiB, 64 * kKiB};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return std::string("no setrlimit");
    // Root is exempt from the limit.
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) return std::string("no setuid");
    return read_all_through(store_, "auto");
  });
  EXPECT_THAT(got, HasSubstr("io_uring|buffers are not registered"));
  EXPECT_THAT(got, HasSubstr("ulimit -l"));
}

}  // namespace
}  // namespace headrace::swap
