#include "core/prefault.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "core/signals.h"
#include "core/tier.h"

namespace headrace {
namespace {

// Little enough to stop soon (a slow hypervisor takes milliseconds for a page) and to stay in order
// with many threads; one call of the kernel costs nothing beside two huge pages.
constexpr Bytes kStep = 2 * kHugePage;
constexpr unsigned kThreadsMax = 16;  // clearing pages is bound by the memory long before

bool back(std::span<std::byte> step) {
  for (;;) {
    if (madvise(step.data(), step.size(), MADV_POPULATE_WRITE) == 0) return true;
    if (errno != EINTR && errno != EAGAIN) return false;
  }
}

}  // namespace

struct Prefault::State {
  std::vector<std::span<std::byte>> pieces;
  std::mutex mutex;
  size_t next = 0;  // piece that the next step is of; `mutex` guards it and the pieces
  std::atomic<bool> stop{false};
  std::atomic<unsigned> working{0};
  std::vector<std::thread> threads;

  std::span<std::byte> take() {
    const std::lock_guard lock(mutex);
    while (next < pieces.size() && pieces[next].empty()) ++next;
    if (next == pieces.size()) return {};
    std::span<std::byte>& piece = pieces[next];
    const std::span<std::byte> step = piece.first(std::min<size_t>(piece.size(), kStep));
    piece = piece.subspan(step.size());
    return step;
  }

  void work() {
    while (!stop.load(std::memory_order_relaxed)) {
      const std::span<std::byte> step = take();
      if (step.empty()) break;
      if (!back(step)) stop.store(true, std::memory_order_relaxed);
    }
    if (working.fetch_sub(1, std::memory_order_acq_rel) == 1) working.notify_all();
  }

  void start(unsigned count) {
    threads.reserve(count);
    working.store(count);
    for (unsigned i = 0; i < count; ++i) {
      try {
        threads.emplace_back([this] { work(); });
      } catch (const std::system_error&) {  // fewer do, or none
        working.fetch_sub(count - i);
        return;
      }
      pthread_setname_np(threads.back().native_handle(), "prefault");
    }
  }
};

Prefault::Prefault(std::vector<std::span<std::byte>> pieces, unsigned threads)
    : state_(std::make_unique<State>()) {
  state_->pieces = std::move(pieces);
  const SignalsHeldBack held;
  state_->start(std::min(threads, kThreadsMax));
}

Prefault::~Prefault() {
  state_->stop.store(true, std::memory_order_relaxed);
  for (std::thread& thread : state_->threads) thread.join();
}

bool Prefault::done() const { return state_->working.load(std::memory_order_acquire) == 0; }

void Prefault::wait() const {
  for (unsigned seen = state_->working.load(); seen != 0; seen = state_->working.load()) {
    state_->working.wait(seen);
  }
}

}  // namespace headrace
