#include "swap/reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "swap/cpu_time.h"
#include "swap/store.h"

namespace headrace::swap {
namespace {

// A request longer than this comes back short from the kernel anyway, and hogs the device.
constexpr Bytes kRequestMax = 16 * kMiB;
// How far a late wake-up may be made up for: longer than a timer's slack and a busy machine's
// stalls, shorter than what a rehearsal would notice as a burst.
constexpr uint64_t kCatchUpNs = 50'000'000;

}  // namespace

Reader::Reader(IoBackend& backend, const Clock& clock, const ReaderOptions& options)
    : backend_(backend),
      clock_(clock),
      options_(options),
      request_bytes_(round_down(
          std::min({options.request_bytes, options.bytes_in_flight, kRequestMax}), kBlock)),
      reads_(options.reads_max),
      lanes_(options.reads_max),
      requests_(options.operations_max) {
  HEADRACE_ASSERT(options.reads_max > 0 && options.operations_max > 0);
  request_bytes_ = std::max(request_bytes_, kBlock);
  for (uint32_t i = options.operations_max; i > 0; --i) free_requests_.push_back(i - 1);
  ready_.reserve(options.operations_max);
  arrived_.reserve(options.reads_max);
  batch_.reserve(options.operations_max);
  completions_.reserve(options.operations_max);
}

void Reader::add(const ChunkRead& read) {
  HEADRACE_ASSERT(read.id < reads_.size());
  HEADRACE_ASSERT(read.bytes > 0 && read.bytes % kBlock == 0 && read.offset % kBlock == 0);
  Read& slot = reads_[read.id];
  HEADRACE_ASSERT(!slot.queued && slot.outstanding == 0, "this id is being read already");
  slot = Read{.what = read, .result = {.id = read.id}, .queued = true};
  lanes_.push(read.priority, read.id);
  ++live_;
}

// Takes reads that have failed off the front of the lanes.
void Reader::prune_front() {
  for (const Priority lane : {Priority::kDemand, Priority::kPrefetch}) {
    while (!lanes_.empty(lane)) {
      Read& read = reads_[lanes_.front(lane)];
      if (read.result.fault == ReadFault::kNone) break;
      lanes_.pop(lane);
      read.queued = false;
      retire(read);
    }
  }
}

// Whether budget and rate let a request of `bytes` leave now; sets the gate where the rate does
// not.
bool Reader::may_cut(Bytes bytes) {
  if (free_requests_.empty()) return false;
  if (in_flight_ > 0 && in_flight_ + bytes > options_.bytes_in_flight) return false;
  if (options_.disk_rate == 0) return true;
  const uint64_t now = clock_.now_ns();
  if (turn_begin_ns_ == 0) {
    const uint64_t earliest =
        continuous_ ? now - std::min(now, kCatchUpNs) : now;  // never earlier than paid_ns_
    turn_begin_ns_ = std::max({paid_ns_, earliest, uint64_t{1}});
  }
  const double cost_ns = static_cast<double>(bytes) * 1e9 / static_cast<double>(options_.disk_rate);
  const uint64_t leave_ns = turn_begin_ns_ + static_cast<uint64_t>(cost_ns);
  if (now < leave_ns) {
    gate_ns_ = leave_ns;
    return false;
  }
  paid_ns_ = leave_ns;
  turn_begin_ns_ = 0;
  return true;
}

// What of the chunk leaves next: up to a request's bytes, not past the end of a run.
Reader::Request Reader::next_request(uint32_t id) const {
  const Read& read = reads_[id];
  const ChunkRead& what = read.what;
  FileRun run{.file = what.file, .offset = what.offset, .bytes = what.bytes};
  Bytes begin = 0;  // of the run in the chunk
  for (size_t i = 0; i < what.runs.size(); ++i) {
    run = what.runs[i];
    if (read.cut < begin + run.bytes) break;
    begin += run.bytes;
  }
  const Bytes at = read.cut - begin;
  const Bytes bytes = std::min(request_bytes_, run.bytes - at);
  const Bytes there = run.bytes - run.missing - at;  // a run ends less than a block past its file
  return {.read = id,
          .file = run.file,
          .offset = run.offset + at,
          .begin = read.cut,
          .bytes = bytes,
          .there = std::min(bytes, there),
          .until = bytes};
}

void Reader::cut(Priority lane, const Request& request) {
  Read& read = reads_[request.read];
  const uint32_t index = free_requests_.back();
  free_requests_.pop_back();
  requests_[index] = request;
  ready_.push_back(index);
  if (read.result.begin_ns == 0) read.result.begin_ns = clock_.now_ns();
  read.cut += request.bytes;
  ++read.outstanding;
  in_flight_ += request.bytes;
  lanes_.served(lane);
  if (read.cut == read.what.bytes) {
    lanes_.pop(lane);
    read.queued = false;
  }
}

// Cuts requests off the queued chunks until the budget, the rate or the queue ends.
void Reader::fill() {
  gate_ns_ = 0;
  for (;;) {
    prune_front();
    if (lanes_.empty()) {
      turn_begin_ns_ = 0;
      break;
    }
    const Priority lane = lanes_.turn();
    const Request request = next_request(lanes_.front(lane));
    if (!may_cut(request.bytes)) break;
    cut(lane, request);
    continuous_ = !lanes_.empty();
  }
}

void Reader::submit() {
  // Requests of a chunk that has failed meanwhile need not leave any more.
  for (size_t i = 0; i < ready_.size();) {
    if (reads_[requests_[ready_[i]].read].result.fault == ReadFault::kNone) {
      ++i;
      continue;
    }
    const uint32_t index = ready_[i];
    ready_.erase(ready_.begin() + static_cast<ptrdiff_t>(i));
    finish_request(index);
  }
  if (ready_.empty()) return;
  batch_.clear();
  for (const uint32_t index : ready_) {
    const Request& request = requests_[index];
    batch_.push_back({.kind = reads_[request.read].what.kind,
                      .file = request.file,
                      .offset = request.offset + request.from,
                      .data = reads_[request.read].what.target + request.begin + request.from,
                      .bytes = static_cast<uint32_t>(request.until - request.from),
                      .user = index});
  }
  const size_t taken = backend_.submit(batch_);
  const uint64_t now = clock_.now_ns();
  for (size_t i = 0; i < taken; ++i) {
    requests_[ready_[i]].with_backend = true;
    requests_[ready_[i]].since_ns = now;
  }
  ready_.erase(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(taken));
}

// What one completion means for its request: the whole retry policy.
Reader::Verdict Reader::judge(Request& request, Read& read, int32_t result) {
  ChunkResult& out = read.result;
  const auto fault = [&](ReadFault kind, int error) {
    out.fault = kind;
    out.error = error;
    out.file = request.file;
    out.where = request.offset + request.done;
    return Verdict::kFault;
  };
  if (result == -EINTR || result == -EAGAIN) {
    if (++request.again > kAgainMax) return fault(ReadFault::kRefused, -result);
    ++out.retries;
    return Verdict::kAgain;
  }
  request.again = 0;
  const Bytes asked = request.until - request.from;
  if (result < 0) return judge_error(request, read, -result);
  if (static_cast<Bytes>(result) > asked) return judge_error(request, read, EIO);  // not believed
  const Bytes reached = request.from + static_cast<Bytes>(result);
  if (reached >= std::min(request.until, request.there)) return advance(request, read);
  if (reached > request.done) {
    request.done = reached;
    request.barren = 0;
  } else if (++request.barren == 2) {
    return fault(ReadFault::kTruncated, 0);
  }
  // Direct I/O begins at blocks; a short read may end inside one.
  request.from = round_down(request.done, kBlock);
  ++out.retries;
  out.retried_bytes += request.done - request.from;
  return Verdict::kAgain;
}

// A first error is tried again as it is. After that the range is halved, from its front, until the
// block that cannot be read stands alone or all of it came after all.
Reader::Verdict Reader::judge_error(Request& request, Read& read, int error) {
  ChunkResult& out = read.result;
  const Bytes asked = request.until - request.from;
  if (++request.failed > 1) {
    if (asked <= kBlock || request.failed > kFailedMax) {
      out.fault = ReadFault::kIo;
      out.error = error;
      out.file = request.file;
      out.where = request.offset + request.from;
      return Verdict::kFault;
    }
    request.suspect = request.until;
    request.until = request.from + round_up(asked / 2, kBlock);
  }
  ++out.retries;
  out.retried_bytes += asked;
  return Verdict::kAgain;
}

// A try has brought all that it asked for.
Reader::Verdict Reader::advance(Request& request, const Read& read) {
  if (request.until == request.bytes) {
    std::byte* const data = read.what.target + request.begin;
    std::memset(data + request.there, 0, request.bytes - request.there);  // past the file's end
    return Verdict::kDone;
  }
  request.from = request.done = request.until;
  request.barren = 0;
  const Bytes left = request.suspect - request.from;
  request.until = left == 0 ? request.bytes : request.from + round_up((left + 1) / 2, kBlock);
  return Verdict::kAgain;
}

void Reader::complete(const IoCompletion& completion) {
  const auto index = static_cast<uint32_t>(completion.user);
  HEADRACE_ASSERT(completion.user < requests_.size() && requests_[index].with_backend);
  Request& request = requests_[index];
  request.with_backend = false;
  Read& read = reads_[request.read];
  // Another request's fault has already ended this chunk: what came back is not looked at.
  if (read.result.fault == ReadFault::kNone &&
      judge(request, read, completion.result) == Verdict::kAgain) {
    ready_.push_back(index);
    return;
  }
  finish_request(index);
}

void Reader::finish_request(uint32_t index) {
  Read& read = reads_[requests_[index].read];
  in_flight_ -= requests_[index].bytes;
  free_requests_.push_back(index);
  --read.outstanding;
  retire(read);
}

// Marks a chunk as arrived when nothing of it is queued or with the backend.
void Reader::retire(Read& read) {
  if (!read.queued && read.outstanding == 0) arrived_.push_back(read.what.id);
}

void Reader::verify(Read& read, std::vector<ChunkResult>& results) {
  ChunkResult& out = read.result;
  if (out.fault == ReadFault::kNone && read.what.verifies) {
    out.digest = checksum({read.what.target, read.what.bytes}, options_.store_uuid,
                          read.what.object, read.what.chunk);
    if (out.digest != read.what.digest.value_or(out.digest)) {
      ++out.checksum_failures;
      if (!read.second) {  // tells a bad transfer from bad media
        read.second = true;
        read.queued = true;
        read.cut = 0;
        ++out.retries;
        out.retried_bytes += read.what.bytes;
        lanes_.push(read.what.priority, read.what.id);
        return;
      }
      out.fault = ReadFault::kCorrupt;
      out.file = read.what.runs.empty() ? read.what.file : read.what.runs[0].file;
      out.where = read.what.runs.empty() ? read.what.offset : read.what.runs[0].offset;
    }
  }
  --live_;
  results.push_back(out);
}

uint64_t Reader::gate_wait_ns() const {
  if (gate_ns_ == 0) return kForever;
  const uint64_t now = clock_.now_ns();
  return gate_ns_ > now ? gate_ns_ - now : 0;
}

void Reader::turn(uint64_t wait_ns, std::vector<ChunkResult>& results) {
  send();
  receive(wait_ns);
  send();
  verify(results);
}

void Reader::send() {
  fill();
  submit();
}

void Reader::receive(uint64_t wait_ns) {
  completions_.clear();
  const uint64_t wait = arrived_.empty() ? std::min(wait_ns, gate_wait_ns()) : 0;
  backend_.poll(1, wait, completions_);
  for (const IoCompletion& completion : completions_) complete(completion);
}

// At least one chunk of those that have arrived, the oldest first. Reading a thread's processor
// time is a system call: twice in every turn it would be a tenth of what reading costs.
void Reader::verify_arrived(Bytes bytes_most, std::vector<ChunkResult>& results) {
  if (arrived_.empty()) return;
  const bool timed = verify_turns_++ % kVerifyTimedEvery == 0;
  const uint64_t begin = timed ? thread_cpu_ns() : 0;
  size_t i = 0;
  Bytes bytes = 0;
  for (; i < arrived_.size() && bytes < bytes_most; ++i) {
    Read& read = reads_[arrived_[i]];
    bytes += read.what.bytes;
    verify(read, results);
  }
  arrived_.erase(arrived_.begin(), arrived_.begin() + static_cast<ptrdiff_t>(i));
  verified_bytes_ += bytes;
  if (!timed) return;
  timed_bytes_ += bytes;
  timed_ns_ += thread_cpu_ns() - begin;
}

uint64_t Reader::verify_cpu_ns() const {
  if (timed_bytes_ == 0) return 0;
  return static_cast<uint64_t>(static_cast<double>(timed_ns_) *
                               static_cast<double>(verified_bytes_) /
                               static_cast<double>(timed_bytes_));
}

Reader::Oldest Reader::oldest() const {
  Oldest oldest;
  for (const Request& request : requests_) {
    if (!request.with_backend) continue;
    if (oldest.since_ns != 0 && oldest.since_ns <= request.since_ns) continue;
    oldest = {.since_ns = request.since_ns,
              .file = request.file,
              .offset = request.offset + request.from,
              .bytes = request.until - request.from};
  }
  return oldest;
}

void Reader::drop_queued(std::vector<ChunkResult>& results) {
  for (Read& read : reads_) {
    if (read.queued && read.result.fault == ReadFault::kNone) {
      read.result.fault = ReadFault::kDropped;
    }
  }
  fill();  // prunes every queued read, since all of them have a fault now
  submit();
  verify_arrived(~Bytes{0}, results);
}

}  // namespace headrace::swap
