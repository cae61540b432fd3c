#include "core/threads.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "core/signals.h"

namespace headrace {
namespace {

constexpr unsigned kThreadsMax = 1024;
// A decode step has hundreds of loops with gaps of a few microseconds: sleeping in them would cost
// a futex wake-up each. Past this the gap is a wait for the disk, and the core is of more use
// elsewhere.
constexpr uint64_t kSpinNs = 40'000;
constexpr int kPausesPerLook = 32;  // reading the clock costs about as much as these pauses
constexpr uint32_t kOpen = 1u << 31;
// A thread takes this part of its share of what is left (guided self-scheduling: Polychronopoulos
// and Kuck 1987): neighbours at first, single ones in the end, when a thread that has more to do
// holds the others up.
constexpr uint64_t kPartOfShare = 2;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

unsigned cores_allowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<unsigned>(CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

// Returns when `word` no longer holds `old`.
void wait_for_change(const std::atomic<uint32_t>& word, uint32_t old, bool spin) {
  if (spin) {
    const uint64_t end_ns = steady_clock().now_ns() + kSpinNs;
    do {
      for (int i = 0; i < kPausesPerLook; ++i) {
        if (word.load(std::memory_order_acquire) != old) return;
        pause_cpu();
      }
    } while (steady_clock().now_ns() < end_ns);
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace

// One loop: the caller fills the job, opens the gate and moves `round`; workers that see the round
// move enter through the gate, claim chunks by `next` and leave. The caller works too, so that the
// loop ends even when no worker wakes; then it closes the gate and waits for those inside. A worker
// that wakes late finds the gate closed (or a later loop, which it joins), never a job that is
// being changed: jobs change only while the gate is shut and nobody is inside.
struct ThreadPool::State {
  alignas(64) std::atomic<uint32_t> round{0};
  alignas(64) std::atomic<uint32_t> gate{0};  // kOpen | workers inside
  alignas(64) std::atomic<uint32_t> next{0};
  alignas(64) uint32_t count = 0;
  Call call = nullptr;
  const void* context = nullptr;
  std::atomic<bool> stop{false};
  bool spin = false;  // without a core for each thread, a spinning one delays the one it waits for
  std::vector<std::thread> workers;

  void work() {
    uint32_t begin = next.load(std::memory_order_relaxed);
    while (begin < count) {
      const uint64_t part = (count - begin) / (kPartOfShare * (workers.size() + 1));
      const uint32_t end = begin + static_cast<uint32_t>(std::max<uint64_t>(1, part));
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      for (uint32_t i = begin; i < end; ++i) call(context, i);
      begin = next.load(std::memory_order_relaxed);
    }
  }

  bool enter() {
    uint32_t seen = gate.load();
    while ((seen & kOpen) != 0) {
      if (gate.compare_exchange_weak(seen, seen + 1)) return true;
    }
    return false;
  }

  void leave() {
    if (gate.fetch_sub(1) == 1) gate.notify_one();  // shut, and this was the last inside
  }

  void serve() {
    uint32_t seen = 0;
    for (;;) {
      wait_for_change(round, seen, spin);
      seen = round.load();
      if (stop.load()) return;
      if (enter()) {
        work();
        leave();
      }
    }
  }

  void end() {
    stop.store(true);
    round.fetch_add(1);
    round.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(unsigned threads) : state_(std::make_unique<State>()), threads_(threads) {
  HEADRACE_ASSERT(threads >= 1 && threads <= kThreadsMax, fmt::format("{} threads", threads));
  state_->spin = threads <= cores_allowed();
  state_->workers.reserve(threads - 1);
  try {
    const SignalsHeldBack held;
    for (unsigned i = 1; i < threads; ++i) {
      State* state = state_.get();
      std::thread& worker = state->workers.emplace_back([state] { state->serve(); });
      pthread_setname_np(worker.native_handle(), fmt::format("compute {}", i).c_str());
    }
  } catch (const std::system_error& e) {
    state_->end();
    throw Error(ErrorCode::kFailed,
                fmt::format("{} compute threads: {}; use fewer with --threads", threads, e.what()));
  }
}

ThreadPool::~ThreadPool() { state_->end(); }

void ThreadPool::run_erased(uint32_t count, Call call, const void* context) {
  if (threads_ == 1 || count <= 1) {
    for (uint32_t i = 0; i < count; ++i) call(context, i);
    return;
  }
  State& s = *state_;
  HEADRACE_ASSERT(s.gate.load() == 0, "run() called from inside run() or from two threads");
  s.count = count;
  s.call = call;
  s.context = context;
  s.next.store(0, std::memory_order_relaxed);
  s.gate.store(kOpen);
  s.round.fetch_add(1);
  s.round.notify_all();
  s.work();
  uint32_t inside = s.gate.fetch_and(~kOpen) & ~kOpen;
  while (inside != 0) {
    wait_for_change(s.gate, inside, s.spin);
    inside = s.gate.load();
  }
}

}  // namespace headrace
