// io_uring: one thread keeps many requests at the device. Buffers and files are registered where
// the kernel lets us; what it refuses costs processor time, not results, and is told in the note.
//
// The ring starts disabled and is bound to the first thread that submits or polls (SINGLE_ISSUER
// lets no other in), so that it may be opened and used on different threads.
#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <fmt/format.h>

#include "core/error.h"
#include "swap/io.h"

namespace headrace::swap {
namespace {

constexpr uint64_t kWakeUser = UINT64_MAX;  // marks the read of the eventfd
constexpr Bytes kPieceMax = kGiB;           // the kernel's limit for one registered buffer
constexpr uint64_t kWaitMaxNs = 3'600'000'000'000;

std::string setup_diagnosis(int error) {
  switch (error) {
    case ENOSYS:
      return "this kernel has no io_uring; use pread";
    case EPERM: {
      int disabled = 0;
      std::ifstream("/proc/sys/kernel/io_uring_disabled") >> disabled;
      if (disabled != 0) {
        return fmt::format("kernel.io_uring_disabled is {}; set it to 0, or use pread", disabled);
      }
      return "a seccomp filter (containers have one by default) forbids it; allow "
             "io_uring_setup, io_uring_enter and io_uring_register, or use pread";
    }
    case ENOMEM:
      return "the limit on locked memory is too small; raise it (ulimit -l), or use pread";
    default:
      return fmt::format("{}; use pread", std::strerror(error));
  }
}

class Uring final : public IoBackend {
 public:
  Uring(const IoFiles& files, const IoOptions& options)
      : files_(files), operations_max_(options.operations_max), prefault_(options.prefault) {
    HEADRACE_ASSERT(operations_max_ > 0);
    open_ring();
    wake_file_ = eventfd(0, EFD_CLOEXEC);
    if (wake_file_ < 0) {
      const int error = errno;
      io_uring_queue_exit(&ring_);
      throw Error(ErrorCode::kIo, fmt::format("cannot open io_uring: eventfd: {}; use pread",
                                              std::strerror(error)));
    }
    register_files();
    cut_pieces(options.buffers);
    if (prefault_ == nullptr) register_buffers();
  }

  ~Uring() override {
    drain();
    io_uring_queue_exit(&ring_);
    close(wake_file_);
  }

  IoCaps caps() const override {
    return {.name = "io_uring",
            .registered_buffers = buffers_registered_,
            .registered_files = files_registered_,
            .direct = files_.direct,
            .note = note_};
  }

  size_t submit(std::span<const IoOp> ops) override {
    begin_call();
    size_t taken = 0;
    while (taken < ops.size() && in_flight_ < operations_max_) {
      io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
      if (entry == nullptr) break;
      prepare(*entry, ops[taken]);
      ++taken;
      ++in_flight_;
    }
    // What the kernel does not take now stays in the ring; poll() offers it again.
    if (taken > 0) enter(0, 0);
    return taken;
  }

  void poll(size_t least, uint64_t timeout_ns, std::vector<IoCompletion>& out) override {
    begin_call();
    const size_t before = out.size();
    const uint64_t begin = steady_clock().now_ns();
    const uint64_t limit = std::min(timeout_ns, kWaitMaxNs);
    bool woken = false;
    // The kernel delivers when it is entered, so that one look at the queue is not enough; after
    // having waited, it is.
    for (bool entered = false;;) {
      woken |= reap(out);
      const bool enough = woken || out.size() - before >= least;
      const uint64_t elapsed = enough ? 0 : steady_clock().now_ns() - begin;
      const uint64_t left = enough || elapsed >= limit ? 0 : limit - elapsed;
      const bool delivered = entered || (enough && io_uring_sq_ready(&ring_) == 0);
      if (left == 0 && delivered) return;
      enter(left > 0 ? 1 : 0, left);
      entered = true;
    }
  }

  size_t in_flight() const override { return in_flight_; }

  void wake() override {
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the sleeper is being woken already.
    [[maybe_unused]] const ssize_t written = write(wake_file_, &one, sizeof one);
  }

 private:
  void open_ring() {
    const uint32_t entries = operations_max_ + 2;  // and the wake-up's
    // The newest kernel's way first: completions are then handled when we ask, on our thread.
    constexpr unsigned kFlags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED, IORING_SETUP_R_DISABLED};
    int result = -EINVAL;
    for (const unsigned flags : kFlags) {
      io_uring_params params{};
      params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
      params.cq_entries = 4 * entries;  // never overflows: in flight stays below `entries`
      result = io_uring_queue_init_params(entries, &ring_, &params);
      if (result != -EINVAL) break;
    }
    if (result < 0) {
      throw Error(ErrorCode::kIo,
                  fmt::format("cannot open io_uring: {}", setup_diagnosis(-result)));
    }
    if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) {  // waits with a timeout
      io_uring_queue_exit(&ring_);
      throw Error(ErrorCode::kIo, "cannot open io_uring: the kernel is older than 5.11; use pread");
    }
  }

  void register_files() {
    if (files_.descriptors.empty()) return;
    const auto count = static_cast<unsigned>(files_.descriptors.size());
    const int result = io_uring_register_files(&ring_, files_.descriptors.data(), count);
    files_registered_ = result == 0;
    if (result < 0) add_note(fmt::format("files are not registered: {}", std::strerror(-result)));
  }

  void cut_pieces(std::span<const std::span<std::byte>> buffers) {
    for (std::span<std::byte> rest : buffers) {
      while (!rest.empty()) {
        const std::span<std::byte> piece = rest.first(std::min<size_t>(rest.size(), kPieceMax));
        pieces_.push_back({.iov_base = piece.data(), .iov_len = piece.size()});
        rest = rest.subspan(piece.size());
      }
    }
    const auto by_address = [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; };
    std::sort(pieces_.begin(), pieces_.end(), by_address);
  }

  void register_buffers() {
    prefault_ = nullptr;
    if (pieces_.empty()) return;
    const int result =
        io_uring_register_buffers(&ring_, pieces_.data(), static_cast<unsigned>(pieces_.size()));
    buffers_registered_ = result == 0;
    if (buffers_registered_) return;
    add_note(fmt::format(
        "buffers are not registered: {}; reads take a little more processor time{}",
        std::strerror(-result),
        result == -ENOMEM ? ", raise the limit on locked memory (ulimit -l) to save it" : ""));
  }

  void add_note(const std::string& text) {
    if (!note_.empty()) note_ += "; ";
    note_ += text;
  }

  void begin_call() {
    if (!bound_) bind();
    if (prefault_ != nullptr && prefault_->done()) register_buffers();
  }

  void bind() {
    // The call itself: liburing 2.3 declares io_uring_enable_rings but does not export it.
    const long result =
        syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    if (result < 0) {
      throw Error(ErrorCode::kIo,
                  fmt::format("io_uring cannot be started: {}; use pread", std::strerror(errno)));
    }
    bound_ = true;
    arm_wake();
  }

  void arm_wake() {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    HEADRACE_ASSERT(entry != nullptr);  // the ring has room for it beside all operations
    io_uring_prep_read(entry, wake_file_, &wake_count_, sizeof wake_count_, 0);
    io_uring_sqe_set_data64(entry, kWakeUser);
    wake_armed_ = true;
  }

  // Index of the registered piece that holds all of [data, data + bytes), or -1.
  int piece_of(const std::byte* data, Bytes bytes) const {
    if (!buffers_registered_) return -1;
    const auto after = std::upper_bound(
        pieces_.begin(), pieces_.end(), data,
        [](const std::byte* at, const iovec& piece) { return at < piece.iov_base; });
    if (after == pieces_.begin()) return -1;
    const iovec& piece = *(after - 1);
    const auto* const begin = static_cast<const std::byte*>(piece.iov_base);
    if (data + bytes > begin + piece.iov_len) return -1;
    return static_cast<int>(after - 1 - pieces_.begin());
  }

  void prepare(io_uring_sqe& entry, const IoOp& op) const {
    HEADRACE_ASSERT(op.file < files_.descriptors.size());
    const int file = files_registered_ ? static_cast<int>(op.file) : files_.descriptors[op.file];
    const int piece = op.kind == IoKind::kFlush ? -1 : piece_of(op.data, op.bytes);
    switch (op.kind) {
      case IoKind::kRead:
        if (piece >= 0) {
          io_uring_prep_read_fixed(&entry, file, op.data, op.bytes, op.offset, piece);
        } else {
          io_uring_prep_read(&entry, file, op.data, op.bytes, op.offset);
        }
        break;
      case IoKind::kWrite:
        if (piece >= 0) {
          io_uring_prep_write_fixed(&entry, file, op.data, op.bytes, op.offset, piece);
        } else {
          io_uring_prep_write(&entry, file, op.data, op.bytes, op.offset);
        }
        break;
      case IoKind::kFlush:
        io_uring_prep_fsync(&entry, file, IORING_FSYNC_DATASYNC);
        break;
    }
    if (files_registered_) entry.flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(&entry, op.user);
  }

  // Hands new entries to the kernel and lets it deliver what has completed; waits for `wait_for`
  // completions or the time. A refusal that passes by itself is left to the next call.
  void enter(unsigned wait_for, uint64_t timeout_ns) {
    int result = 0;
    if (wait_for == 0) {
      result = io_uring_submit_and_get_events(&ring_);
    } else {
      __kernel_timespec time{.tv_sec = static_cast<long long>(timeout_ns / 1'000'000'000),
                             .tv_nsec = static_cast<long long>(timeout_ns % 1'000'000'000)};
      io_uring_cqe* first = nullptr;
      result = io_uring_submit_and_wait_timeout(&ring_, &first, wait_for, &time, nullptr);
    }
    const bool passes = result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN ||
                        result == -EBUSY || result == -ENOMEM;
    if (passes) return;
    HEADRACE_ASSERT(result != -EEXIST, "an I/O backend belongs to one thread");
    throw Error(ErrorCode::kIo,
                fmt::format("io_uring_enter: {}; use pread", std::strerror(-result)));
  }

  // Moves what has completed to `out`; true when the wake-up was among it.
  bool reap(std::vector<IoCompletion>& out) {
    bool woken = false;
    unsigned seen = 0, head = 0;
    io_uring_cqe* entry = nullptr;
    io_uring_for_each_cqe(&ring_, head, entry) {
      ++seen;
      if (entry->user_data == kWakeUser) {
        woken = true;
        continue;
      }
      out.push_back({.user = entry->user_data, .result = entry->res});
      --in_flight_;
    }
    io_uring_cq_advance(&ring_, seen);
    if (woken) {
      wake_armed_ = false;
      if (!closing_) arm_wake();
    }
    return woken;
  }

  // Taking a ring down does not stop the device from writing, so everything that the kernel has
  // taken is waited for first. What it refuses to take (a filter on io_uring_enter) is in nobody's
  // hands.
  void drain() {
    if (!bound_) return;
    closing_ = true;
    wake();
    std::vector<IoCompletion> ignored;
    try {
      reap(ignored);
      while (in_flight_ > 0 || wake_armed_) {
        enter(1, kWaitMaxNs);
        reap(ignored);
      }
    } catch (const Error&) {
      const size_t never_taken = io_uring_sq_ready(&ring_);
      HEADRACE_ASSERT(in_flight_ <= never_taken, "the kernel keeps reads that cannot be awaited");
    }
  }

  const IoFiles files_;
  const uint32_t operations_max_;
  io_uring ring_{};
  const Prefault* prefault_;   // null: buffers need not be waited for any more
  std::vector<iovec> pieces_;  // memory to register, by address
  bool buffers_registered_ = false;
  bool files_registered_ = false;
  std::string note_;
  bool bound_ = false;
  size_t in_flight_ = 0;  // accepted and not reaped, those the kernel has not taken included

  int wake_file_ = -1;
  uint64_t wake_count_ = 0;  // the kernel writes it
  bool wake_armed_ = false;
  bool closing_ = false;
};

}  // namespace

std::unique_ptr<IoBackend> open_uring(const IoFiles& files, const IoOptions& options) {
  return std::make_unique<Uring>(files, options);
}

}  // namespace headrace::swap
