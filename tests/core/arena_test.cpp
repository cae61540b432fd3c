#include "core/arena.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace {
namespace {

bool is_aligned(const void* p, Bytes grain) { return reinterpret_cast<uintptr_t>(p) % grain == 0; }

TEST(ArenaTest, RoundsUpAlignsAndIsZero) {
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(50); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const Bytes bytes = random.between(1, 9 * kMiB);
    const Arena arena(bytes);
    ASSERT_TRUE(is_aligned(arena.data(), kHugePage));
    ASSERT_EQ(arena.size(), round_up(bytes, kHugePage));
    EXPECT_EQ(arena.data()[arena.size() - 1], std::byte{0});
    arena.data()[0] = arena.data()[arena.size() - 1] = std::byte{7};
  }
}

TEST(ArenaTest, EmptyAndMoved) {
  Arena empty(0);
  EXPECT_EQ(empty.size(), 0u);
  EXPECT_TRUE(empty.span(0, 0).empty());
  empty.touch();
  Arena a(kHugePage);
  std::byte* data = a.data();
  data[5] = std::byte{9};
  Arena b(std::move(a));
  EXPECT_EQ(b.data(), data);
  empty = std::move(b);
  EXPECT_EQ(empty.data()[5], std::byte{9});
  Arena& self = empty;
  empty = std::move(self);
  EXPECT_EQ(empty.data(), data);
}

TEST(ArenaTest, TouchKeepsContentsAndBacksEveryPage) {
  for (unsigned threads : {1u, 3u, 64u}) {
    const Arena arena(8 * kMiB);
    arena.data()[3 * kMiB] = std::byte{42};
    arena.touch(threads);
    EXPECT_EQ(arena.data()[3 * kMiB], std::byte{42});
    EXPECT_LE(arena.huge_page_bytes(), arena.size());
  }
}

// Where the kernel hands out huge pages for the asking, a touched arena is made of them. Elsewhere
// the count must be zero, not a guess.
TEST(ArenaTest, CountsHugePages) {
  std::string mode;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), mode);
  const Arena arena(16 * kMiB);
  EXPECT_EQ(arena.huge_page_bytes(), 0u);
  arena.touch();
  const Bytes huge = arena.huge_page_bytes();
  EXPECT_EQ(huge % kHugePage, 0u);
  if (mode.empty() || mode.find("[never]") != std::string::npos) {
    EXPECT_EQ(huge, 0u);
  }
  RecordProperty("huge_page_bytes", std::to_string(huge));
}

TEST(ArenaTest, RefusesWhatCannotBeReserved) {
  for (Bytes bytes : {~Bytes{0}, ~Bytes{0} - kMiB, Bytes{1} << 63, Bytes{1} << 52}) {
    try {
      const Arena arena(bytes);
      ADD_FAILURE() << bytes;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kFailed);
      EXPECT_NE(std::string(e.what()).find("; use a smaller budget"), std::string::npos);
    }
  }
}

TEST(ArenaDeathTest, SpanAndGuardPage) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Arena arena(kHugePage);
  EXPECT_EQ(arena.span(kHugePage, 0).size(), 0u);
  EXPECT_EQ(arena.span(1, kHugePage - 1).data(), arena.data() + 1);
  EXPECT_DEATH(arena.span(1, kHugePage), "assertion failed");
  EXPECT_DEATH(arena.span(~Bytes{0}, 2), "assertion failed");
  EXPECT_DEATH(*static_cast<volatile std::byte*>(arena.data() + arena.size()) = std::byte{1}, "");
}

TEST(BumpTest, PiecesAreAlignedAndDisjoint) {
  Random random(test::seed(), 1);
  for (uint64_t i = 0; i < test::cases(200); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    std::vector<std::byte> room(4096);
    Bump bump{std::span<std::byte>(room).subspan(random.below(64))};
    std::byte* last_end = nullptr;
    for (;;) {
      const Bytes alignment = Bytes{1} << random.below(8);
      const Bytes bytes = random.below(200);
      if (bump.used() + bytes + alignment + 64 > room.size()) break;
      std::byte* piece = bump.take(bytes, alignment);
      ASSERT_TRUE(is_aligned(piece, alignment));
      ASSERT_GE(piece, last_end);
      ASSERT_LE(piece + bytes, room.data() + room.size());
      last_end = piece + bytes;
    }
  }
}

TEST(BumpDeathTest, RefusesWhatDoesNotFit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  alignas(64) std::byte room[128];
  Bump bump(room);
  EXPECT_EQ(bump.take_array<float>(32), reinterpret_cast<float*>(room));
  EXPECT_EQ(bump.used(), 128u);
  EXPECT_EQ(bump.take(0), room + 128);
  EXPECT_DEATH(bump.take(1), "assertion failed");
  EXPECT_DEATH(bump.take(~Bytes{0}), "assertion failed");
  EXPECT_DEATH(bump.take(0, 3), "alignment 3");
  Bump ragged(room);
  ragged.take(1);
  EXPECT_DEATH(ragged.take(~Bytes{0} - 10, 64), "assertion failed");  // wraps with its gap
}

}  // namespace
}  // namespace headrace
