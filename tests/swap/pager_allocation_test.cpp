// No memory is taken in the step loop: operator new is counted for the whole program.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/arena.h"
#include "swap/simulated.h"
#include "tests/swap/pager_fixture.h"

namespace {
std::atomic<uint64_t> allocations{0};

void* counted(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* const memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace headrace::swap {
namespace {

void pass(Pager& pager, const ImageStore& store, const Arena& arena, std::vector<Ticket>& tickets) {
  tickets.clear();
  for (size_t i = 0; i < store.chunks().size(); ++i) {
    const auto [object, chunk] = store.chunks()[i];
    tickets.push_back(
        pager.start({.object = object,
                     .chunk = chunk,
                     .target = arena.data() + i * store.most(),
                     .priority = i % 3 == 0 ? Priority::kDemand : Priority::kPrefetch}));
  }
  for (const Ticket ticket : tickets) pager.wait(ticket);
  tickets.clear();
  for (size_t i = 0; i < store.chunks().size(); ++i) {
    const auto [object, chunk] = store.chunks()[i];
    tickets.push_back(pager.start({.object = object,
                                   .chunk = chunk,
                                   .edge = {Tier::kHost, Tier::kDevice},
                                   .source = store.truth(object, chunk).data(),
                                   .target = arena.data() + i * store.most()}));
  }
  for (const Ticket ticket : tickets) pager.wait(ticket);
}

TEST(PagerAllocation, NoneInSteadyState) {
  Random random(test::seed());
  TempFolder folder;
  ImageStore store(random, {.objects_most = 8, .chunks_most = 8});
  store.write_files(folder.path());
  const Arena arena(store.chunks().size() * store.most());
  for (const std::string engine : {"auto", "pread", "simulated"}) {
    SCOPED_TRACE(engine);
    const PagerOptions options{
        .engine = engine, .bytes_in_flight = 256 * kKiB, .request_bytes = 16 * kKiB};
    const auto pager = engine == "simulated"
                           ? make_pager(store, open_simulated({.files = store.images()}), options)
                           : make_pager(store, options);
    std::vector<Ticket> tickets;
    tickets.reserve(store.chunks().size());
    pass(*pager, store, arena, tickets);
    const uint64_t before = allocations.load();
    EXPECT_GT(before, 0u);  // the counter is linked in
    for (int i = 0; i < 20; ++i) pass(*pager, store, arena, tickets);
    EXPECT_EQ(allocations.load() - before, 0u);
  }
}

}  // namespace
}  // namespace headrace::swap
