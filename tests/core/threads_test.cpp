#include "core/threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace {
namespace {

// Plain bytes, not atomics: were an index given out twice or a write still under way when run()
// returns, the thread sanitizer would see the race that the counts might miss.
void check_counts(ThreadPool& pool, uint32_t count) {
  std::vector<uint8_t> calls(count);
  pool.run(count, [&](uint32_t i) { ++calls[i]; });
  ASSERT_TRUE(std::all_of(calls.begin(), calls.end(), [](uint8_t c) { return c == 1; }));
}

TEST(ThreadPoolTest, EveryIndexExactlyOnce) {
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(40); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    ThreadPool pool(static_cast<unsigned>(random.between(1, 9)));
    for (int loop = 0; loop < 30; ++loop) {
      check_counts(pool, static_cast<uint32_t>(random.next_u64() >> 32 >> random.between(16, 32)));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ThreadPoolTest, EmptyAndSingleLoopsRunOnTheCaller) {
  ThreadPool pool(4);
  pool.run(0, [](uint32_t) { FAIL(); });
  const auto caller = std::this_thread::get_id();
  pool.run(1, [&](uint32_t i) {
    EXPECT_EQ(i, 0u);
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

// Gaps longer than the spin: workers sleep and must be woken, or found still asleep.
TEST(ThreadPoolTest, WakesAfterSleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 50; ++i) {
    check_counts(pool, 100);
    std::this_thread::sleep_for(std::chrono::microseconds(i * 20));
  }
}

TEST(ThreadPoolTest, ManyShortLoops) {
  ThreadPool pool(4);
  uint64_t sum = 0;
  std::vector<uint64_t> parts(8);
  const auto loops = static_cast<uint32_t>(test::cases(20'000));
  for (uint32_t loop = 0; loop < loops; ++loop) {
    pool.run(8, [&](uint32_t i) { parts[i] += i + loop; });
  }
  for (uint64_t part : parts) sum += part;
  EXPECT_EQ(sum, 28ull * loops + 8ull * loops * (loops - 1) / 2);
}

TEST(ThreadPoolTest, MoreThreadsThanCores) {
  ThreadPool pool(4 * std::max(2u, std::thread::hardware_concurrency()));
  for (int i = 0; i < 200; ++i) check_counts(pool, 257);
}

// The pauses are far longer than the spin, so that a worker is asleep when its loop begins.
TEST(ThreadPoolTest, SleepingWorkersTakePart) {
  ThreadPool pool(2);
  std::atomic<bool> helped{false};
  const auto caller = std::this_thread::get_id();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  while (!helped && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.run(64, [&](uint32_t) {
      if (std::this_thread::get_id() != caller) helped = true;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    });
  }
  EXPECT_TRUE(helped);
}

// The caller has long been asleep when the last worker leaves, and must be woken.
TEST(ThreadPoolTest, WaitsForSlowWorkers) {
  ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  for (int loop = 0; loop < 20; ++loop) {
    std::vector<uint8_t> done(6);
    pool.run(6, [&](uint32_t i) {
      const bool is_caller = std::this_thread::get_id() == caller;
      std::this_thread::sleep_for(std::chrono::milliseconds(is_caller ? 1 : 20));
      done[i] = 1;
    });
    EXPECT_EQ(std::count(done.begin(), done.end(), 1), 6);
  }
}

TEST(ThreadPoolTest, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(1 + static_cast<unsigned>(i) % 8);
}

TEST(ThreadPoolDeathTest, RefusesNesting) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(2);
        pool.run(2, [&](uint32_t) { pool.run(2, [](uint32_t) {}); });
      },
      "inside run");
  EXPECT_DEATH(ThreadPool(0), "0 threads");
}

}  // namespace
}  // namespace headrace
