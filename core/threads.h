// The compute pool: a fixed set of workers that run one loop at a time. Results never depend on the
// number of threads, because callers cut work by shape and every output element has one owner.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace headrace {

// `run` may be called from one thread at a time, the owner's; it takes part in the work.
class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);  // 1: no worker is started, everything runs on the caller
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned threads() const { return threads_; }

  // Calls body(i) for every i in [0, count), each exactly once, on any thread, in any order;
  // returns when all are done. `body` must not throw, allocate or call `run`. No allocation here
  // either.
  template <typename Body>
  void run(uint32_t count, const Body& body) {
    run_erased(
        count, [](const void* context, uint32_t i) { (*static_cast<const Body*>(context))(i); },
        &body);
  }

 private:
  using Call = void (*)(const void* context, uint32_t index);
  void run_erased(uint32_t count, Call call, const void* context);

  struct State;
  std::unique_ptr<State> state_;
  unsigned threads_;
};

}  // namespace headrace
