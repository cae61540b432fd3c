#include "core/numa.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace headrace {
namespace {

TEST(NumaTest, ParsesLists) {
  EXPECT_EQ(parse_nodes("0"), std::vector<unsigned>{0});
  EXPECT_EQ(parse_nodes("0-2,5,7-8"), (std::vector<unsigned>{0, 1, 2, 5, 7, 8}));
  for (const char* bad : {"", "x", "1-", "-1", "2-1", "0,", "0,0", "1024", "0 1", "3,1"}) {
    EXPECT_TRUE(parse_nodes(bad).empty()) << bad;
  }
}

TEST(NumaTest, KnowsTheNodesOfThisMachine) { EXPECT_FALSE(memory_nodes().empty()); }

TEST(NumaTest, PagesAreSpread) {
  constexpr size_t kBytes = size_t{1} << 21;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto policy = [&] {
    int mode = -1;  // stays where a container forbids to ask, and then to set as well
    syscall(SYS_get_mempolicy, &mode, nullptr, 0, memory, MPOL_F_ADDR);
    return mode;
  };
  const int before = policy();
  EXPECT_FALSE(interleave(static_cast<std::byte*>(memory), kBytes, {1023}));  // no such node
  EXPECT_EQ(policy(), before);
  const bool spread = interleave(static_cast<std::byte*>(memory), kBytes, memory_nodes());
  EXPECT_EQ(spread, before != -1);
  EXPECT_EQ(policy(), spread ? MPOL_INTERLEAVE : before);
  EXPECT_EQ(munmap(memory, kBytes), 0);
}

}  // namespace
}  // namespace headrace
