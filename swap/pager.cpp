// The pager's threads: an owner that holds the disk's backend and a Reader, and a copier. Both take
// tickets from a fixed inbox and leave results in the ticket table; neither ever throws past its
// own loop.
#include "swap/pager.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "swap/cpu_time.h"
#include "swap/fault.h"
#include "swap/inbox.h"
#include "swap/lanes.h"
#include "swap/prompt.h"
#include "swap/reader.h"
#include "swap/scratch_mover.h"
#include "swap/tickets.h"
#include "swap/unpacker.h"

namespace headrace::swap {
namespace {

constexpr uint16_t kReadLane = 1;
constexpr uint16_t kCopyLane = 2;
constexpr uint16_t kWriteLane = 3;
constexpr uint32_t kOperationsMax = 256;
constexpr uint32_t kOperationsMin = 32;

using State = Tickets::State;
using Slot = Tickets::Slot;
using Wakes = Inbox::Wakes;

uint32_t operations_for(const PagerOptions& options) {
  const Bytes requests = options.bytes_in_flight / std::max(options.request_bytes, kBlock);
  // Small chunks make small requests: more of them fit into the same bytes.
  return static_cast<uint32_t>(std::clamp<Bytes>(requests * 8, kOperationsMin, kOperationsMax));
}

class ThreadedPager final : public Pager {
 public:
  ThreadedPager(const Store& store, std::unique_ptr<IoBackend> backend, const PagerOptions& options)
      : store_(store),
        options_(options),
        backend_(std::move(backend)),
        tickets_(options.tickets_max),
        disk_(options.tickets_max),
        copies_(options.tickets_max),
        with_reader_(options.tickets_max),
        stalls_{.stall_ns = static_cast<uint64_t>(options.stall_note_s * 1e9),
                .note = options.note} {
    if (store.unpacking() != nullptr) unpacker_.emplace(store, options.room, options.tickets_max);
    if (options.scratch != nullptr) {
      const auto file = static_cast<uint32_t>(store.files().descriptors.size());
      stalls_.scratch_file = file;
      mover_.emplace(*options.scratch, file, options.tickets_max, options.tickets_max);
    }
    taken_.reserve(options.tickets_max);
    try {
      owner_ = std::thread([this] { run_promptly(), own_disk(); });
      owner_handle_ = owner_.native_handle();
    } catch (const std::system_error& error) {
      throw_no_thread(error);
    }
    opened_.wait(false);
    if (open_error_) {
      owner_.join();
      std::rethrow_exception(open_error_);
    }
    try {
      copier_ = std::thread([this] { copy(); });
    } catch (const std::system_error& error) {
      stop_disk();
      throw_no_thread(error);
    }
  }

  ~ThreadedPager() override {
    {
      const std::lock_guard lock(copies_.mutex);
      copies_.stop = true;
      copies_.filled.notify_all();
    }
    copier_.join();
    stop_disk();
  }

  Ticket start(const Transfer& transfer) override {
    const Ticket ticket = tickets_.take();
    Slot& slot = tickets_[ticket];
    HEADRACE_ASSERT(transfer.target != nullptr);
    slot.transfer = transfer;
    slot.extent = extent_of(transfer);
    slot.result = {};
    slot.state.store(State::kPending, std::memory_order_release);
    started_.fetch_add(1, std::memory_order_relaxed);
    const bool is_read = transfer.source == nullptr;
    if (is_read) {
      HEADRACE_ASSERT(transfer.edge.from == Tier::kDisk || is_scratch(transfer),
                      name_of(transfer.edge));
      HEADRACE_ASSERT(reinterpret_cast<uintptr_t>(transfer.target) % kBlock == 0);
    }
    Inbox& inbox = is_read ? disk_ : copies_;
    const std::lock_guard lock(inbox.mutex);
    inbox.lanes.push(transfer.priority, ticket);
    if (is_read) sent_.ask();
    if (inbox.wakes == Wakes::kAll ||
        (inbox.wakes == Wakes::kDemand && transfer.priority == Priority::kDemand)) {
      inbox.wakes = Wakes::kNothing;
      if (is_read) backend_->wake();
      inbox.filled.notify_one();
    }
    return ticket;
  }

  void flush() override { sent_.wait(); }
  bool done(Ticket ticket) const override { return tickets_.done(ticket); }

  void wait(Ticket ticket) override {
    const Slot& slot = tickets_[ticket];
    HEADRACE_ASSERT(slot.state.load(std::memory_order_acquire) != State::kFree,
                    "a ticket is waited for once");
    tickets_.wait(ticket);
    const ChunkResult result = slot.result;
    const Transfer transfer = slot.transfer;
    tickets_.give_back(ticket);
    if (result.fault == ReadFault::kNone) return;
    if (is_scratch(transfer)) mover_->throw_fault(result, transfer);
    throw_fault(store_, result, {transfer.object, transfer.chunk}, engine_failure_);
  }

  uint64_t wait_change(uint64_t seen) override { return tickets_.wait_change(seen); }
  uint64_t finished() const override { return tickets_.finished(); }

  Ledger& ledger() override { return ledger_; }
  IoCaps caps() const override {
    const std::lock_guard lock(caps_mutex_);
    return caps_;
  }

  PagerCounters counters() const override {
    const double verify_s = verify_cpu_s_.load(std::memory_order_relaxed);
    const double unpack_s = unpack_cpu_s_.load(std::memory_order_relaxed);
    return {.started = started_.load(std::memory_order_relaxed),
            .done = finished(),
            .retries = retries_.load(std::memory_order_relaxed),
            .checksum_failures = checksum_failures_.load(std::memory_order_relaxed),
            // Asked for by who wants to know: the owner would pay for it in every turn.
            .io_cpu_s = thread_cpu_s(owner_handle_) - verify_s - unpack_s,
            .verify_cpu_s = verify_s,
            .unpack_cpu_s = unpack_s};
  }

 private:
  [[noreturn]] static void throw_no_thread(const std::system_error& error) {
    throw Error(ErrorCode::kFailed,
                fmt::format("threads for the disk and for copies: {}; allow this user more of them "
                            "(ulimit -u)",
                            error.what()));
  }

  Extent extent_of(const Transfer& transfer) const {
    HEADRACE_ASSERT(mover_ || !is_scratch(transfer));
    if (is_scratch(transfer)) return {.bytes = mover_->bytes_of(transfer)};
    const std::span<const Extent> extents = store_.extents(transfer.object);
    HEADRACE_ASSERT(transfer.chunk < extents.size());
    return extents[transfer.chunk];
  }

  void stop_disk() {
    {
      const std::lock_guard lock(disk_.mutex);
      disk_.stop = true;
      disk_.filled.notify_all();
      backend_->wake();
    }
    owner_.join();
  }

  void open_backend() {
    if (backend_ == nullptr) {
      IoFiles files = store_.files();
      if (mover_) files.descriptors.push_back(options_.scratch->descriptor());
      backend_ = open_io(options_.engine, files,
                         {.operations_max = operations_for(options_),
                          .buffers = options_.buffers,
                          .prefault = options_.prefault});
    }
    caps_ = backend_->caps();
    caps_may_change_ = options_.prefault != nullptr;
  }

  // What the backend could register only once its buffers were backed, and what it says of it.
  void look_at_caps() {
    const IoCaps caps = backend_->caps();
    if (options_.note && caps.note != caps_.note) options_.note(caps.note);
    const std::lock_guard lock(caps_mutex_);
    caps_ = caps;
    caps_may_change_ = false;
  }

  void own_disk() {
    try {
      open_backend();
    } catch (...) {
      open_error_ = std::current_exception();
    }
    opened_ = true;
    opened_.notify_all();
    if (open_error_) return;
    try {
      read_until_told();
    } catch (const std::exception& error) {
      refuse_everything(error.what());
    }
    backend_.reset();  // here, because a ring belongs to its thread
  }

  void read_until_told() {
    Reader reader(*backend_, steady_clock(),
                  {.bytes_in_flight = options_.bytes_in_flight,
                   .request_bytes = options_.request_bytes,
                   .reads_max = options_.tickets_max + (mover_ ? ScratchMover::kPieces : 0),
                   .operations_max = operations_for(options_),
                   .disk_rate = options_.disk_rate,
                   .store_uuid = store_.uuid()});
    std::vector<ChunkResult> results;
    results.reserve(options_.tickets_max + ScratchMover::kPieces);
    while (serve_disk(reader, results)) {
    }
  }

  // One turn of the owner; false when it is told to stop and nothing is left with the device.
  bool serve_disk(Reader& reader, std::vector<ChunkResult>& results) {
    const bool stop = take_started(reader);
    results.clear();
    if (stop && mover_) mover_->drop_queued(results);
    if (stop) reader.drop_queued(results);
    const bool backed = caps_may_change_ && options_.prefault->done();
    if (!stop || !reader.idle()) turn(reader, results);
    if (backed) look_at_caps();
    for (ChunkResult& result : results) {
      const bool piece = mover_ && mover_->owns(result.id);
      if (!piece || mover_->finish(result, reader, result)) finish_read(result);
    }
    stalls_.look(reader, store_);
    const uint64_t verify_ns = reader.verify_cpu_ns() + (mover_ ? mover_->checksum_cpu_ns() : 0);
    const double verify_s = static_cast<double>(verify_ns) * 1e-9;
    const double unpack_s = unpacker_ ? unpacker_->cpu_s() : 0;
    verify_cpu_s_.store(verify_s, std::memory_order_relaxed);
    unpack_cpu_s_.store(unpack_s, std::memory_order_relaxed);
    return !stop || !reader.idle();
  }

  // The reader's turn, but what was started while it slept goes out with what it sends then.
  void turn(Reader& reader, std::vector<ChunkResult>& results) {
    send(reader);
    // Nothing under way: only a start, or the end, can change that.
    const uint64_t wait_ns = reader.idle() ? kForever : stalls_.stall_ns;
    reader.receive(listen(reader) ? wait_ns : 0);
    take_started(reader);
    send(reader);
    reader.verify(results);
  }

  void send(Reader& reader) {
    reader.send();
    sent_.tell(reads_taken_);
  }

  // From here on a start that could leave at once makes the poll that follows return; others are
  // taken when something has come back and left room. False: something was started before.
  bool listen(const Reader& reader) {
    const std::lock_guard lock(disk_.mutex);
    if (!disk_.lanes.empty()) return false;
    disk_.wakes = reader.has_room() ? Wakes::kAll : Wakes::kDemand;
    return true;
  }

  // Hands the reader what was started; true when it is time to stop.
  bool take_started(Reader& reader) {
    bool stop = false;
    {
      const std::lock_guard lock(disk_.mutex);
      while (!disk_.lanes.empty()) {
        const Priority lane = disk_.lanes.turn();
        const Ticket ticket = disk_.lanes.front(lane);
        disk_.lanes.pop(lane);
        ++reads_taken_;
        with_reader_[ticket] = true;
        const bool unpacks = unpacker_ && !is_scratch(tickets_[ticket].transfer);
        if (unpacks) {
          unpacker_->wait(lane, ticket);
        } else {
          taken_.push_back(ticket);
        }
      }
      stop = disk_.stop;
      disk_.wakes = Wakes::kNothing;
    }
    hand_over(reader);
    while (unpacker_ && unpacker_->has_waiting() && (stop || unpacker_->has_place())) {
      const Ticket ticket = unpacker_->take();
      if (stop) {
        end_read({.id = ticket, .fault = ReadFault::kDropped});
        continue;
      }
      ChunkRead read = read_of(ticket);
      unpacker_->place(read);
      reader.add(read);
    }
    return stop;
  }

  ChunkRead read_of(Ticket ticket) const {
    const Slot& slot = tickets_[ticket];
    return {.id = ticket,
            .file = slot.extent.file,
            .offset = slot.extent.offset,
            .bytes = slot.extent.bytes,
            .runs = {},
            .digest = slot.extent.digest,
            .object = slot.transfer.object,
            .chunk = slot.transfer.chunk,
            .target = slot.transfer.target,
            .priority = slot.transfer.priority};
  }

  // Apart from the lock, because checksums of what is written are made here.
  void hand_over(Reader& reader) {
    for (const Ticket ticket : taken_) {
      const Transfer& transfer = tickets_[ticket].transfer;
      if (is_scratch(transfer)) {
        mover_->add(ticket, transfer);
        mover_->feed(reader);
      } else {
        reader.add(read_of(ticket));
      }
    }
    taken_.clear();
    if (mover_) mover_->feed(reader);
  }

  void finish_read(ChunkResult& result) {
    const Transfer& transfer = tickets_[result.id].transfer;
    const bool unpacks = unpacker_ && !is_scratch(transfer);
    if (unpacks) unpacker_->finish(result, transfer.object, transfer.chunk, transfer.target);
    end_read(result);
  }

  void end_read(const ChunkResult& result) {
    Slot& slot = tickets_[result.id];
    with_reader_[result.id] = false;
    const Transfer& transfer = slot.transfer;
    slot.result = result;
    retries_.fetch_add(result.retries, std::memory_order_relaxed);
    checksum_failures_.fetch_add(result.checksum_failures, std::memory_order_relaxed);
    if (result.retried_bytes > 0) {
      ledger_.count(transfer.edge, Kind::kRetries, result.retried_bytes, result.retries);
    }
    if (result.fault == ReadFault::kNone) {
      const bool write = is_scratch_write(transfer);
      record(slot, write ? "write" : "read", write ? kWriteLane : kReadLane, result.begin_ns);
    }
    tickets_.finish(slot);
  }

  // What the transfer moves over its edge: of the disk's, what is read.
  Bytes moved_bytes(const Slot& slot) const {
    const Transfer& transfer = slot.transfer;
    const Unpacking* const form = store_.unpacking();
    const bool as_is = form == nullptr || transfer.edge.from != Tier::kDisk;
    if (as_is || is_scratch(transfer)) return slot.extent.bytes;
    return form->read_bytes(transfer.object, transfer.chunk);
  }

  // Counts a transfer that has succeeded.
  void record(const Slot& slot, const char* name, uint16_t lane, uint64_t begin_ns) {
    const Transfer& transfer = slot.transfer;
    const Bytes bytes = moved_bytes(slot);
    if (transfer.counted) ledger_.count(transfer.edge, transfer.kind, bytes);
    if (options_.trace == nullptr) return;
    // Reads under way together end one after another: each is shown from the end of the one before,
    // so that events never cross. A lane is recorded by the thread that owns it.
    uint64_t& free_ns = lane_free_ns_[lane];
    const uint64_t end_ns = steady_clock().now_ns();
    options_.trace->record({.name = name,
                            .lane = lane,
                            .is_transfer = transfer.counted,  // staging: once, by its copy
                            .edge = transfer.edge,
                            .kind = transfer.kind,
                            .object = transfer.object,
                            .bytes = bytes,
                            .begin_ns = std::max(begin_ns, std::exchange(free_ns, end_ns)),
                            .end_ns = end_ns});
  }

  // The backend itself broke: every reader is told, now and from here on. What the device still
  // holds is waited for when the backend is closed, before any buffer can go.
  void refuse_everything(const std::string& reason) {
    engine_failure_ = reason;
    sent_.tell(UINT64_MAX);
    const auto refuse = [&](Ticket ticket) {
      tickets_[ticket].result.fault = ReadFault::kDropped;
      tickets_.finish(tickets_[ticket]);
    };
    for (Ticket ticket = 0; ticket < with_reader_.size(); ++ticket) {
      if (with_reader_[ticket]) refuse(ticket);
    }
    std::unique_lock lock(disk_.mutex);
    for (;;) {
      while (!disk_.lanes.empty()) {
        const Priority lane = disk_.lanes.turn();
        refuse(disk_.lanes.front(lane));
        disk_.lanes.pop(lane);
      }
      if (disk_.stop) return;
      disk_.wakes = Wakes::kAll;
      disk_.filled.wait(lock, [&] { return disk_.stop || !disk_.lanes.empty(); });
    }
  }

  void copy() {
    std::unique_lock lock(copies_.mutex);
    for (;;) {
      copies_.wakes = Wakes::kAll;
      copies_.filled.wait(lock, [&] { return copies_.stop || !copies_.lanes.empty(); });
      copies_.wakes = Wakes::kNothing;
      if (copies_.stop) return;
      const Priority lane = copies_.lanes.turn();
      const Ticket ticket = copies_.lanes.front(lane);
      copies_.lanes.served(lane);
      copies_.lanes.pop(lane);
      lock.unlock();
      Slot& slot = tickets_[ticket];
      const uint64_t begin_ns = steady_clock().now_ns();
      std::memcpy(slot.transfer.target, slot.transfer.source, slot.extent.bytes);
      record(slot, "copy", kCopyLane, begin_ns);
      tickets_.finish(slot);
      lock.lock();
    }
  }

  const Store& store_;
  const PagerOptions options_;
  std::optional<ScratchMover> mover_;   // the owner's
  std::vector<Ticket> taken_;           // the owner's: to be handed over
  std::unique_ptr<IoBackend> backend_;  // made, used and drained on the owner thread
  mutable std::mutex caps_mutex_;
  IoCaps caps_;                   // the owner's to change
  bool caps_may_change_ = false;  // the owner's

  Tickets tickets_;
  Inbox disk_, copies_;
  std::vector<bool> with_reader_;  // the owner's: which tickets it has taken
  std::optional<Unpacker> unpacker_;
  StallWatch stalls_;  // the owner's
  Sent sent_;
  uint64_t reads_taken_ = 0;  // the owner's

  std::atomic<bool> opened_{false};
  std::exception_ptr open_error_;  // to be read once it is opened

  Ledger ledger_;
  uint64_t lane_free_ns_[4] = {};  // by trace lane: the end of what was recorded last
  std::string engine_failure_ = "the pager was closed";
  std::atomic<uint64_t> started_{0}, retries_{0}, checksum_failures_{0};
  std::atomic<double> verify_cpu_s_{0}, unpack_cpu_s_{0};

  std::thread owner_, copier_;
  pthread_t owner_handle_{};  // while it lives
};

}  // namespace

std::unique_ptr<Pager> make_pager(const Store& store, const PagerOptions& options) {
  return std::make_unique<ThreadedPager>(store, nullptr, options);
}

std::unique_ptr<Pager> make_pager(const Store& store, std::unique_ptr<IoBackend> backend,
                                  const PagerOptions& options) {
  HEADRACE_ASSERT(backend != nullptr);
  return std::make_unique<ThreadedPager>(store, std::move(backend), options);
}

}  // namespace headrace::swap
