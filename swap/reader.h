// Turns "read this chunk" into requests to an IoBackend and its completions into one verdict a
// chunk: the state machine behind the pager, without threads, so that it can be run through every
// fault in a test.
//
//   chunk:   queued -> cut into requests -> all of them back -> verified -> done
//                ^________ read again, once, where the checksum differs ____|
//   request: ready -> with the backend -> done | ready again (short, EINTR, EAGAIN, first error)
//                                              | halved (more errors), until one block is to blame
//                                              | fault (that block, no progress twice)
//
// A fault ends the chunk only when its last request is back, because until then the device may
// write into the target. One thread; the target belongs to the reader from add() until the result.
// Memory is taken at construction only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/clock.h"
#include "core/spec.h"
#include "core/tier.h"
#include "swap/io.h"
#include "swap/lanes.h"
#include "swap/store.h"

namespace headrace::swap {

inline constexpr uint32_t kAgainMax = 64;   // EINTR and EAGAIN in a row before giving up
inline constexpr uint32_t kFailedMax = 64;  // errors of one request: more than halving one needs
inline constexpr uint64_t kForever = UINT64_MAX;
// Checksums of one turn: little enough that the device, refilled before them, does not run dry.
inline constexpr Bytes kVerifyPerTurn = 4 * kMiB;
inline constexpr uint64_t kVerifyTimedEvery = 8;  // turns

struct ChunkRead {
  uint32_t id = 0;  // below reads_max, and not in use
  uint32_t file = 0;
  Bytes offset = 0;
  Bytes bytes = 0;
  std::span<const FileRun> runs;   // given: where the bytes lie instead, one run after the other
  std::optional<uint64_t> digest;  // what the checksum must be; none: it is reported
  ObjectId object = 0;             // the checksum's seed
  uint32_t chunk = 0;
  std::byte* target = nullptr;
  Priority priority = Priority::kPrefetch;
  IoKind kind = IoKind::kRead;  // kWrite: from `target` to the file, by the same rules
  bool verifies = true;         // false: who adds it has checksums of its own
};

enum class ReadFault : uint8_t {
  kNone,
  kTruncated,  // the file ends at `where`
  kIo,         // the system cannot read the block at `where`; `error` says how
  kRefused,    // it answered EINTR or EAGAIN more than kAgainMax times in a row
  kCorrupt,    // two reads with a wrong checksum; `digest` is the second's
  kDropped,    // never read: the reader was told to stop
  kChanged,    // not the reader's: its file is not the one that was opened
};

struct ChunkResult {
  uint32_t id = 0;
  ReadFault fault = ReadFault::kNone;
  int error = 0;      // errno
  uint32_t file = 0;  // of `where`
  Bytes where = 0;    // offset in the file
  uint64_t digest = 0;
  Bytes retried_bytes = 0;  // read besides the chunk's own bytes
  uint32_t retries = 0;
  uint32_t checksum_failures = 0;
  uint64_t begin_ns = 0;  // when its first request left
};

struct ReaderOptions {
  Bytes bytes_in_flight = 8 * kMiB;
  Bytes request_bytes = 1 * kMiB;
  uint32_t reads_max = 4096;
  uint32_t operations_max = 64;  // no more than the backend's
  Bytes disk_rate = 0;           // 0: no limit
  uint64_t store_uuid = 0;       // the checksum's seed
};

class Reader {
 public:
  Reader(IoBackend& backend, const Clock& clock, const ReaderOptions& options);

  void add(const ChunkRead& read);
  // One turn is send(), receive(), send(), verify(): the device gets its next work before the
  // processor looks at what has arrived.
  void turn(uint64_t wait_ns, std::vector<ChunkResult>& results);
  // Sends what fits.
  void send();
  // Waits up to `wait_ns` for something to come back; returns early on the backend's wake(), and at
  // once where something has arrived that is not verified.
  void receive(uint64_t wait_ns);
  // Verifies whole chunks, few at a time, and appends their results.
  void verify(std::vector<ChunkResult>& results) { verify_arrived(kVerifyPerTurn, results); }
  // Whether a chunk that is added now could leave before something comes back. One of the demand
  // lane may, where this says no: it overtakes what waits for room.
  bool has_room() const { return lanes_.empty() && in_flight_ < options_.bytes_in_flight; }
  // Gives up what has not left yet; what has left must still be waited for with turn().
  void drop_queued(std::vector<ChunkResult>& results);

  struct Oldest {
    uint64_t since_ns = 0;  // 0: nothing is with the backend
    uint32_t file = 0;
    Bytes offset = 0, bytes = 0;
  };
  Oldest oldest() const;  // of the requests that the backend has, the one that it has had longest

  bool idle() const { return live_ == 0; }  // nothing queued and nothing with the backend
  Bytes bytes_in_flight() const { return in_flight_; }
  // Processor time of checksums: that of every kVerifyTimedEvery-th turn, for all by their bytes.
  uint64_t verify_cpu_ns() const;

 private:
  struct Read {
    ChunkRead what;
    ChunkResult result;
    Bytes cut = 0;             // bytes of the chunk that requests were made for
    uint32_t outstanding = 0;  // requests made and not finished
    bool queued = false;       // in a lane
    bool second = false;       // being read again after a checksum mismatch
  };
  struct Request {
    uint32_t read = 0;
    uint32_t file = 0;
    Bytes offset = 0;       // in the file
    Bytes begin = 0;        // in the chunk
    Bytes bytes = 0;        // of the request
    Bytes there = 0;        // of those, before the file ends
    Bytes done = 0;         // contiguous bytes that have arrived
    Bytes from = 0;         // where the current try begins: `done` rounded down to a block
    Bytes until = 0;        // where it ends
    Bytes suspect = 0;      // a block before this one failed, more than once; 0: none did
    uint32_t again = 0;     // EINTR and EAGAIN in a row
    uint32_t barren = 0;    // tries in a row that brought nothing new
    uint32_t failed = 0;    // errors
    uint64_t since_ns = 0;  // with the backend
    bool with_backend = false;
  };
  enum class Verdict : uint8_t { kDone, kAgain, kFault };

  void fill();
  void submit();
  bool may_cut(Bytes bytes);
  Request next_request(uint32_t id) const;
  void cut(Priority lane, const Request& request);
  void prune_front();
  void complete(const IoCompletion& completion);
  Verdict judge(Request& request, Read& read, int32_t result);
  Verdict judge_error(Request& request, Read& read, int error);
  static Verdict advance(Request& request, const Read& read);
  void finish_request(uint32_t index);
  void retire(Read& read);
  void verify(Read& read, std::vector<ChunkResult>& results);
  void verify_arrived(Bytes bytes_most, std::vector<ChunkResult>& results);
  uint64_t gate_wait_ns() const;

  IoBackend& backend_;
  const Clock& clock_;
  const ReaderOptions options_;
  Bytes request_bytes_;

  std::vector<Read> reads_;  // by id
  Lanes lanes_;
  std::vector<Request> requests_;
  std::vector<uint32_t> free_requests_;
  std::vector<uint32_t> ready_;    // requests to submit, in order
  std::vector<uint32_t> arrived_;  // reads whose requests are all back
  std::vector<IoOp> batch_;
  std::vector<IoCompletion> completions_;
  Bytes in_flight_ = 0;
  uint32_t live_ = 0;  // reads added and without a result
  uint64_t verify_turns_ = 0, timed_ns_ = 0;
  Bytes verified_bytes_ = 0, timed_bytes_ = 0;

  // The rate: a request leaves once the time that its bytes take at the rate is over, counted from
  // the end of the request before (or from its arrival, after a pause).
  uint64_t paid_ns_ = 0;        // until when earlier requests have used the rate up
  uint64_t turn_begin_ns_ = 0;  // when the next request's time began; 0: not set
  uint64_t gate_ns_ = 0;        // when it may leave; 0: nothing is held back
  bool continuous_ = false;     // more was waiting when the last one left
};

}  // namespace headrace::swap
