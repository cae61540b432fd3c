#include "core/prefault.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "core/arena.h"
#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace {
namespace {

Bytes resident_bytes(const Arena& arena) {
  std::vector<unsigned char> pages(arena.size() / kBlock);
  EXPECT_EQ(mincore(arena.data(), arena.size(), pages.data()), 0);
  const auto there = [](unsigned char page) { return (page & 1u) != 0; };
  return static_cast<Bytes>(std::count_if(pages.begin(), pages.end(), there)) * kBlock;
}

bool kernel_can() {
  const Arena arena(kHugePage);
  return madvise(arena.data(), arena.size(), MADV_POPULATE_WRITE) == 0;
}

// Pieces in any order, of any size, empty ones among them.
TEST(PrefaultTest, BacksWhatItIsGiven) {
  if (!kernel_can()) GTEST_SKIP() << "needs Linux 5.14";
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(20); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const Arena arena(random.between(1, 24) * kMiB);
    std::vector<std::span<std::byte>> pieces;
    for (Bytes at = 0; at < arena.size();) {
      const Bytes pages = (arena.size() - at) / kHugePage;
      const Bytes bytes = random.between(0, std::min<Bytes>(pages, 4)) * kHugePage;
      pieces.push_back(arena.span(at, bytes));
      at += bytes;
    }
    for (size_t p = pieces.size(); p > 1; --p) std::swap(pieces[p - 1], pieces[random.below(p)]);
    const Prefault prefault(pieces, static_cast<unsigned>(random.between(1, 5)));
    prefault.wait();
    EXPECT_TRUE(prefault.done());
    EXPECT_EQ(resident_bytes(arena), arena.size());
  }
}

// Who uses the memory meanwhile finds and leaves what is his.
TEST(PrefaultTest, ContentsStay) {
  const Arena arena(64 * kMiB);
  const auto value = [](Bytes at) { return static_cast<std::byte>(at / kBlock % 251 + 1); };
  for (Bytes at = 0; at < arena.size(); at += 2 * kBlock) arena.data()[at] = value(at);
  const Prefault prefault({arena.span(0, arena.size())}, 2);
  for (Bytes at = kBlock; at < arena.size(); at += 2 * kBlock) arena.data()[at] = value(at);
  prefault.wait();
  for (Bytes at = 0; at < arena.size(); at += kBlock) ASSERT_EQ(arena.data()[at], value(at));
}

TEST(PrefaultTest, NothingToDoIsDone) {
  EXPECT_TRUE(Prefault({}, 0).done());
  const Prefault nothing({std::span<std::byte>{}}, 3);
  nothing.wait();
  EXPECT_TRUE(nothing.done());
  const Arena arena(kHugePage);
  const Prefault nobody({arena.span(0, arena.size())}, 0);
  EXPECT_TRUE(nobody.done());
  EXPECT_EQ(resident_bytes(arena), 0u);
}

// It does not wait for all that it was to back.
TEST(PrefaultTest, EndsSoon) {
  const Arena arena(4 * kGiB);
  const auto begin = std::chrono::steady_clock::now();
  {
    const Prefault prefault({arena.span(0, arena.size())}, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_LT(resident_bytes(arena), arena.size());
}

// Memory that cannot be backed ends it; whoever uses it hears of that from the kernel.
TEST(PrefaultTest, EndsAtMemoryThatIsNotThere) {
  Arena arena(8 * kMiB);
  ASSERT_EQ(mprotect(arena.data(), kHugePage, PROT_NONE), 0);
  const Prefault prefault({arena.span(0, arena.size())}, 1);
  prefault.wait();
  EXPECT_EQ(resident_bytes(arena), 0u);
}

}  // namespace
}  // namespace headrace
