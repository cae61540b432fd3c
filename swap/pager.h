// Moves chunks between tiers when told to: start a transfer, wait for its ticket. It obeys and
// never decides; what is resident is the plan's knowledge, not a second one here.
//
// One owner thread per device submits reads, keeps the bytes in flight within a budget, cuts chunks
// into requests, continues short ones, retries what may be retried, and verifies every chunk's
// checksum before its ticket is done. Host to device copies run on one copy thread. Errors travel
// in the ticket and are thrown by wait(). After start-up nothing here allocates.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/spec.h"
#include "core/tier.h"
#include "core/trace.h"
#include "swap/io.h"
#include "swap/ledger.h"
#include "swap/scratch.h"
#include "swap/store.h"

namespace headrace::swap {

enum class Priority : uint8_t { kDemand, kPrefetch };  // demand overtakes queued prefetches

struct Transfer {
  ObjectId object = 0;
  uint32_t chunk = 0;
  Kind kind = Kind::kWeights;
  Edge edge{Tier::kDisk, Tier::kHost};  // what the ledger counts
  bool counted = true;                  // false for the staging half of a disk->device transfer
  const std::byte* source = nullptr;    // given: memory that is copied; null: the store is read
  std::byte* target = nullptr;          // room for the whole chunk; kBlock-aligned
  Priority priority = Priority::kPrefetch;
  // Given: blocks of array `object` of the scratch move between the disk and memory, `target` being
  // where block 0 is; the edge says which way. The runs must stay until wait().
  std::span<const BlockRun> blocks;
};

using Ticket =
    uint32_t;  // index into a fixed table; valid until wait() or until done() is followed by it

struct PagerOptions {
  std::string engine = "auto";        // io_uring, pread
  Bytes bytes_in_flight = 12 * kMiB;  // per device
  Bytes request_bytes = 2 * kMiB;     // a chunk is read in pieces of this size
  uint32_t tickets_max = 5120;
  Bytes disk_rate = 0;         // hold reads to so many bytes a second; 0: no limit
  Trace* trace = nullptr;      // lanes 1 (disk read), 2 (copy) and 3 (disk write)
  Scratch* scratch = nullptr;  // outlives the pager, which is alone to use it
  std::span<const std::span<std::byte>> buffers;  // arenas that reads go to
  const Prefault* prefault = nullptr;             // as in IoOptions; outlives the pager
  std::span<std::byte> room;  // where chunks arrive that a store unpacks: see unpacking_room()
  double stall_note_s = 10;   // a request that the disk has had for so long is told of, once
  std::function<void(const std::string&)> note;  // lines for the log, from the owner thread
};

// Room that reading from a store which unpacks takes to keep `bytes_in_flight` under way.
Bytes unpacking_room(Bytes read_bytes_most, Bytes bytes_in_flight);

struct PagerCounters {
  uint64_t started = 0, done = 0, retries = 0, checksum_failures = 0;
  double io_cpu_s = 0, verify_cpu_s = 0, unpack_cpu_s = 0;  // of the owner thread
};

class Pager {
 public:
  virtual ~Pager() = default;  // drains: no buffer is touched after it returns

  virtual Ticket start(const Transfer& transfer) = 0;
  // After the start of a read of the demand lane: blocks until the disk's thread has taken all that
  // was started, and sent what the device has room for. It sleeps meanwhile: a caller that keeps
  // all processors busy right after start() makes the disk's thread wait for one, milliseconds at
  // times.
  virtual void flush() = 0;
  virtual bool done(Ticket ticket) const = 0;  // true also when it failed
  virtual void wait(Ticket ticket) = 0;        // frees the ticket; throws Error (kCorrupt, kIo)
  // Blocks until the number of finished transfers differs from `seen`; returns the number. A caller
  // that polls several tickets reads it first, looks, and then waits: no wake-up is lost.
  virtual uint64_t wait_change(uint64_t seen) = 0;
  virtual uint64_t finished() const = 0;

  virtual Ledger& ledger() = 0;
  virtual IoCaps caps() const = 0;
  virtual PagerCounters counters() const = 0;
};

std::unique_ptr<Pager> make_pager(const Store& store, const PagerOptions& options);
// For tests and rehearsals: any backend and clock.
std::unique_ptr<Pager> make_pager(const Store& store, std::unique_ptr<IoBackend> backend,
                                  const PagerOptions& options);

}  // namespace headrace::swap
