#include "swap/simulated.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace headrace::swap {
namespace {

constexpr Bytes kSector = 512;  // the grain of short transfers
constexpr uint64_t kWaitMaxNs = 3'600'000'000'000;
constexpr uint64_t kBadStream = 1, kRottenStream = 2;  // per block; operations come after these
constexpr uint64_t kOperationStream = 16;

class Simulated final : public IoBackend {
 public:
  explicit Simulated(const SimulatedOptions& options)
      : options_(options), clock_(options.clock != nullptr ? *options.clock : own_clock_) {
    HEADRACE_ASSERT(options.operations_max > 0);
    HEADRACE_ASSERT(options.latency_least_ns <= options.latency_most_ns);
    pending_.reserve(options.operations_max);
  }

  ~Simulated() override {
    if (options_.counts != nullptr) *options_.counts = counts_;
  }

  IoCaps caps() const override { return {.name = "simulated", .direct = true}; }

  size_t submit(std::span<const IoOp> ops) override {
    const size_t taken = std::min(ops.size(), options_.operations_max - pending_.size());
    for (const IoOp& op : ops.first(taken)) {
      HEADRACE_ASSERT(op.file < options_.files.size());
      HEADRACE_ASSERT(op.kind == IoKind::kFlush ||
                      (op.offset % kBlock == 0 && op.bytes % kBlock == 0));
      const uint64_t number = counts_.operations++;
      Random random(options_.seed, kOperationStream + number);
      uint64_t due = std::max(clock_.now_ns(), device_free_ns_);
      if (options_.bytes_per_s > 0) {
        due += op.bytes * uint64_t{1'000'000'000} / options_.bytes_per_s;
        device_free_ns_ = due;
      } else {
        device_free_ns_ = 0;
      }
      due += random.between(options_.latency_least_ns, options_.latency_most_ns);
      if (random.chance(options_.faults.stall)) {
        ++counts_.stalls;
        due += options_.stall_ns;
      }
      pending_.push_back({.op = op, .number = number, .due_ns = due});
    }
    return taken;
  }

  void poll(size_t least, uint64_t timeout_ns, std::vector<IoCompletion>& out) override {
    const uint64_t begin = clock_.now_ns();
    const uint64_t end = begin + std::min(timeout_ns, kWaitMaxNs);
    size_t got = 0;
    for (;;) {
      got += deliver(out);
      if (take_wake() || got >= least || timeout_ns == 0) return;
      if (pending_.empty()) return idle(timeout_ns, end);
      uint64_t next = UINT64_MAX;
      for (const Pending& pending : pending_) next = std::min(next, pending.due_ns);
      clock_.advance_to(std::min(next, end));
      if (next > end) return;
    }
  }

  size_t in_flight() const override { return pending_.size(); }

  void wake() override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    wakes_.notify_one();
  }

 private:
  struct Pending {
    IoOp op;
    uint64_t number;
    uint64_t due_ns;
  };

  bool take_wake() {
    const std::lock_guard lock(mutex_);
    return std::exchange(woken_, false);
  }

  // Nothing will complete: a caller with a clock and a limit has its time passed for it, any other
  // waits for another thread.
  void idle(uint64_t timeout_ns, uint64_t end) {
    if (options_.clock != nullptr && timeout_ns < kWaitMaxNs) return clock_.advance_to(end);
    std::unique_lock lock(mutex_);
    wakes_.wait_for(lock, std::chrono::nanoseconds(std::min(timeout_ns, kWaitMaxNs)),
                    [&] { return woken_; });
    woken_ = false;
  }

  // Completes what is due, the earliest first.
  size_t deliver(std::vector<IoCompletion>& out) {
    size_t got = 0;
    for (;;) {
      const auto next = std::min_element(
          pending_.begin(), pending_.end(), [](const Pending& a, const Pending& b) {
            return std::pair(a.due_ns, a.number) < std::pair(b.due_ns, b.number);
          });
      if (next == pending_.end() || next->due_ns > clock_.now_ns()) return got;
      out.push_back({.user = next->op.user, .result = perform(*next)});
      *next = pending_.back();
      pending_.pop_back();
      ++got;
    }
  }

  int32_t perform(const Pending& pending) {
    const SimulatedFaults& faults = options_.faults;
    const IoOp& op = pending.op;
    Random random(options_.seed, ~pending.number);  // apart from the draws made at submit
    if (random.chance(faults.interrupted)) return ++counts_.interrupted, -EINTR;
    if (random.chance(faults.again)) return ++counts_.again, -EAGAIN;
    if (random.chance(faults.error)) {
      ++counts_.errors;
      scribble(op, random);
      return -EIO;
    }
    if (op.kind == IoKind::kFlush) return 0;
    Bytes bytes = op.bytes;
    const std::span<std::byte> file = options_.files[op.file];
    if (op.kind == IoKind::kRead) {
      bytes = op.offset < file.size() ? std::min<Bytes>(bytes, file.size() - op.offset) : 0;
    } else if (op.offset + bytes > file.size()) {
      return -ENOSPC;
    }
    if (bytes >= kSector && random.chance(faults.short_read)) {
      ++counts_.short_reads;
      bytes = random.below(bytes / kSector) * kSector;
    }
    if (op.kind == IoKind::kRead) return read(op, bytes, random);
    std::memcpy(file.data() + op.offset, op.data, bytes);
    return static_cast<int32_t>(bytes);
  }

  // A failed read may have written anything into its target.
  static void scribble(const IoOp& op, Random& random) {
    if (op.kind != IoKind::kRead) return;
    std::memset(op.data, static_cast<int>(random.below(256)), op.bytes);
  }

  bool block_is(uint64_t stream, uint32_t file, Bytes offset, double probability) const {
    if (probability <= 0) return false;
    const auto draw = philox(options_.seed, stream, (uint64_t{file} << 48) | (offset / kBlock));
    return static_cast<double>(draw[0]) < probability * 4294967296.0;
  }

  int32_t read(const IoOp& op, Bytes bytes, Random& random) {
    const SimulatedFaults& faults = options_.faults;
    for (Bytes at = 0; at < bytes; at += kBlock) {
      if (block_is(kBadStream, op.file, op.offset + at, faults.bad_block)) {
        ++counts_.bad_blocks;
        scribble(op, random);
        return -EIO;
      }
    }
    const std::span<const std::byte> file = options_.files[op.file];
    const std::span<const std::byte> old =
        op.file < options_.stale.size() ? options_.stale[op.file] : std::span<const std::byte>();
    if (bytes > 0 && random.chance(faults.misdirected)) {
      ++counts_.misdirected;
      const Bytes places = (file.size() - bytes) / kBlock + 1;
      std::memcpy(op.data, file.data() + random.below(places) * kBlock, bytes);
    } else if (bytes > 0 && random.chance(faults.stale)) {
      ++counts_.stale;
      std::memset(op.data, 0, bytes);
      if (op.offset < old.size()) {
        std::memcpy(op.data, old.data() + op.offset,
                    std::min<Bytes>(bytes, old.size() - op.offset));
      }
    } else {
      std::memcpy(op.data, file.data() + op.offset, bytes);
    }
    if (bytes > 0 && random.chance(faults.bit_flip)) {
      ++counts_.bit_flips;
      op.data[random.below(bytes)] ^= std::byte{1} << random.below(8);
    }
    for (Bytes at = 0; at < bytes; at += kBlock) {
      if (!block_is(kRottenStream, op.file, op.offset + at, faults.rotten_block)) continue;
      ++counts_.rotten_blocks;
      op.data[at] ^= std::byte{1};
    }
    return static_cast<int32_t>(bytes);
  }

  const SimulatedOptions options_;
  VirtualClock own_clock_;
  VirtualClock& clock_;
  std::vector<Pending> pending_;  // few: searched, not sorted
  uint64_t device_free_ns_ = 0;
  SimulatedCounts counts_;

  std::mutex mutex_;  // guards woken_
  std::condition_variable wakes_;
  bool woken_ = false;
};

}  // namespace

std::unique_ptr<IoBackend> open_simulated(const SimulatedOptions& options) {
  return std::make_unique<Simulated>(options);
}

}  // namespace headrace::swap
