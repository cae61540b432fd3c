// The door to the disk: submit reads and writes, poll for what is done. Three implementations:
// io_uring (swap/uring), a pread/pwrite thread pool (swap/blocking) and a seeded simulation with
// faults and virtual time (swap/simulated). A backend knows files, offsets and addresses, nothing
// else; it reports results and never retries: that is the engine's (swap/reader.h) to decide.
//
// Threads: a backend belongs to one thread, which submits and polls. Lifetime: memory named by an
// operation belongs to the backend until its completion has been polled; close() drains before it
// returns, because tearing a ring down does not stop DMA.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/prefault.h"
#include "core/tier.h"

namespace headrace::swap {

enum class IoKind : uint8_t { kRead, kWrite, kFlush };

struct IoOp {
  IoKind kind = IoKind::kRead;
  uint32_t file = 0;  // index into the files given at open
  Bytes offset = 0;
  std::byte* data = nullptr;  // kBlock-aligned, as are offset and bytes (direct I/O)
  uint32_t bytes = 0;
  uint64_t user = 0;  // handed back in the completion
};

struct IoCompletion {
  uint64_t user = 0;
  int32_t result = 0;  // bytes moved (may be short), or -errno
};

struct IoCaps {
  const char* name = "";  // "io_uring", "pread", "simulated"
  bool registered_buffers = false;
  bool registered_files = false;
  bool direct = false;
  std::string note;  // one line: what was refused and what to do, empty when nothing was
};

class IoBackend {
 public:
  virtual ~IoBackend() = default;
  virtual IoCaps caps() const = 0;
  // Takes as many of `ops` as fit in its queue, from the front; returns how many.
  virtual size_t submit(std::span<const IoOp> ops) = 0;
  // Appends what has completed, at least `least` of them (or until timeout_ns has passed).
  virtual void poll(size_t least, uint64_t timeout_ns, std::vector<IoCompletion>& out) = 0;
  virtual size_t in_flight() const = 0;
  virtual void wake() = 0;  // from any thread: makes a poll that waits return early
};

struct IoFiles {  // opened by the store; backends do not own them
  std::vector<int> descriptors;
  bool direct = false;
};

struct IoOptions {
  uint32_t operations_max = 64;  // in flight
  std::span<const std::span<std::byte>>
      buffers;           // memory that reads go to, registered where possible
  uint32_t threads = 4;  // of the blocking backend
  // Given: what backs the buffers, which are registered by the first call after it is done, since
  // registering would back them all at once and hold up every read meanwhile. Outlives the backend.
  const Prefault* prefault = nullptr;
};

std::unique_ptr<IoBackend> open_uring(const IoFiles&,
                                      const IoOptions&);  // throws kIo with the cause
std::unique_ptr<IoBackend> open_blocking(const IoFiles&, const IoOptions&);

// "auto": io_uring if a probe read with it succeeds, else the blocking pool with the reason in
// caps().note. "io_uring", "pread": that one or an error (kUsage names the cause).
std::unique_ptr<IoBackend> open_io(std::string_view engine, const IoFiles&, const IoOptions&);

}  // namespace headrace::swap
