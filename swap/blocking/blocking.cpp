// pread and pwrite on a few threads: works wherever files do. Threads take operations from a ring
// of fixed size and leave results in another; the owner waits on a condition variable.
#include "swap/blocking/blocking.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace headrace::swap {
namespace {

constexpr uint64_t kWaitMaxNs = 3'600'000'000'000;  // longer waits are the caller's loop

class Blocking final : public IoBackend {
 public:
  Blocking(const IoFiles& files, const IoOptions& options, std::string note)
      : files_(files), note_(std::move(note)), queue_(options.operations_max) {
    HEADRACE_ASSERT(options.operations_max > 0 && options.threads > 0);
    done_.reserve(options.operations_max);
    threads_.reserve(options.threads);
    try {
      for (uint32_t i = 0; i < options.threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // fewer do
      if (!threads_.empty()) return;
      throw Error(ErrorCode::kFailed, fmt::format("threads that read from the disk: {}; allow "
                                                  "this user more of them (ulimit -u)",
                                                  error.what()));
    }
  }

  ~Blocking() override {
    {
      std::unique_lock lock(mutex_);
      stop_ = true;
      queued_ = 0;  // what no thread has taken is dropped, what one has taken is waited for
      work_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  IoCaps caps() const override { return {.name = "pread", .direct = files_.direct, .note = note_}; }

  size_t submit(std::span<const IoOp> ops) override {
    const std::lock_guard lock(mutex_);
    const size_t taken = std::min(ops.size(), queue_.size() - in_flight_);
    for (size_t i = 0; i < taken; ++i) {
      HEADRACE_ASSERT(ops[i].file < files_.descriptors.size());
      queue_[(first_ + queued_) % queue_.size()] = ops[i];
      ++queued_;
    }
    in_flight_ += taken;
    if (taken == 1) {
      work_.notify_one();
    } else if (taken > 1) {
      work_.notify_all();
    }
    return taken;
  }

  void poll(size_t least, uint64_t timeout_ns, std::vector<IoCompletion>& out) override {
    std::unique_lock lock(mutex_);
    const auto enough = [&] { return woken_ || (!done_.empty() && done_.size() >= least); };
    if (timeout_ns > 0 && least > 0 && !enough()) {
      polled_.wait_for(lock, std::chrono::nanoseconds(std::min(timeout_ns, kWaitMaxNs)), enough);
    }
    woken_ = false;
    in_flight_ -= done_.size();
    out.insert(out.end(), done_.begin(), done_.end());
    done_.clear();
  }

  size_t in_flight() const override {
    const std::lock_guard lock(mutex_);
    return in_flight_;
  }

  void wake() override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    polled_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return stop_ || queued_ > 0; });
      if (stop_) return;
      const IoOp op = queue_[first_];
      first_ = (first_ + 1) % queue_.size();
      --queued_;
      lock.unlock();
      const IoCompletion completion{.user = op.user, .result = perform(op)};
      lock.lock();
      done_.push_back(completion);
      polled_.notify_one();
    }
  }

  int32_t perform(const IoOp& op) const {
    const int file = files_.descriptors[op.file];
    const auto offset = static_cast<off_t>(op.offset);
    ssize_t moved = -1;
    switch (op.kind) {
      case IoKind::kRead:
        moved = pread(file, op.data, op.bytes, offset);
        break;
      case IoKind::kWrite:
        moved = pwrite(file, op.data, op.bytes, offset);
        break;
      case IoKind::kFlush:
        moved = fdatasync(file);
        break;
    }
    return moved < 0 ? -errno : static_cast<int32_t>(moved);
  }

  const IoFiles files_;
  const std::string note_;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable work_, polled_;
  std::vector<IoOp> queue_;  // a ring: `queued_` operations from `first_` on
  size_t first_ = 0, queued_ = 0;
  size_t in_flight_ = 0;  // submitted and not polled
  std::vector<IoCompletion> done_;
  bool woken_ = false, stop_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoBackend> open_blocking_because(const IoFiles& files, const IoOptions& options,
                                                 std::string note) {
  return std::make_unique<Blocking>(files, options, std::move(note));
}

std::unique_ptr<IoBackend> open_blocking(const IoFiles& files, const IoOptions& options) {
  return open_blocking_because(files, options, "");
}

}  // namespace headrace::swap
