// After warm-up a decode pass allocates nothing and plans nothing; when the model fits it calls no
// pager.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/engine/small_models.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace {
std::atomic<uint64_t> g_allocations{0};
}

void* operator new(size_t size) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(size);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace headrace {
namespace {

struct Counts {
  uint64_t allocations = 0, transfers = 0;
  Bytes bytes = 0;
};

// Eight decode passes after eight to warm up.
Counts steady_passes(const std::string& model, const engine::SessionOptions& options,
                     uint64_t prompts) {
  Random random(test::seed(), 9);
  std::vector<engine::Request> requests(prompts);
  for (engine::Request& r : requests) {
    r.prompt = test::random_ids(random, test::vocabulary_of(model), 12);
    r.sampling = {.max_tokens = 24, .ignore_eos = true};
    if (&r == &requests.front()) continue;  // one is greedy, the others sample
    r.sampling.temperature = 0.9;
    r.sampling.top_k = 40;
    r.sampling.top_p = 0.9;
    r.sampling.repetition_penalty = 1.1;
  }
  engine::Session session(engine::open_model(model), 0, options,
                          engine::Generator::demand(requests));
  engine::Generator generator(session);
  engine::RequestList list(requests);
  generator.start(list, list);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(generator.step());
  const auto bytes = [&] {
    Bytes sum = 0;
    for (const auto& row : session.pager().ledger().rows()) sum += row.bytes;
    return sum;
  };
  const Counts before{g_allocations.load(), session.executor().counters().transfers, bytes()};
  const uint64_t allocated = g_allocations.load();
  for (int i = 0; i < 8; ++i) generator.step();
  const uint64_t after = g_allocations.load();
  return {after - allocated, session.executor().counters().transfers - before.transfers,
          bytes() - before.bytes};
}

TEST(Steady, ResidentPassesAllocateNothingAndMoveNothing) {
  Random random(test::seed(), 6);
  for (const char* family : {"llama", "qwen3", "mixtral"}) {
    SCOPED_TRACE(family);
    const test::TempFolder folder;
    test::make_model(folder.path_of("m"), random, family, "bfloat16");
    engine::SessionOptions o;
    o.store = folder.path_of("stores");
    o.cache = folder.path_of("cache");
    o.memory = 2 * kGiB;
    const Counts counts = steady_passes(folder.path_of("m"), o, 2);
    EXPECT_EQ(counts.allocations, 0u);
    EXPECT_EQ(counts.transfers, 0u);
    EXPECT_EQ(counts.bytes, 0u);
  }
}

TEST(Steady, StreamedPassesAllocateNothing) {
  Random random(test::seed(), 7);
  for (const char* family : {"llama", "qwen3", "mixtral"}) {
    SCOPED_TRACE(family);
    const test::TempFolder folder;
    test::make_model(folder.path_of("m"), random, family, "float32");
    engine::SessionOptions o;
    o.store = folder.path_of("stores");
    o.cache = folder.path_of("cache");
    std::vector<engine::Request> requests(2);
    for (engine::Request& r : requests) r = {std::vector<int32_t>(12, 1), {.max_tokens = 24}, {}};
    o.choices.policy = "stream";
    o.memory = test::smallest_budget(folder.path_of("m"), o, requests);
    const Counts counts = steady_passes(folder.path_of("m"), o, 2);
    EXPECT_EQ(counts.allocations, 0u);
    EXPECT_GT(counts.transfers, 0u);
    EXPECT_GT(counts.bytes, 0u);
  }
}

}  // namespace
}  // namespace headrace
