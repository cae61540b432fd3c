#include "engine/executor_holes.h"

#include <algorithm>
#include <string_view>

#include "core/clock.h"
#include "core/error.h"

namespace headrace::engine {

using scheduler::Hole;
using scheduler::Pick;
using scheduler::Pool;
using scheduler::Ring;
using scheduler::Slot;
using scheduler::Space;

namespace {

// Tickets that a hole's fetches hold at most; the pager has as many as the lanes and a hole
// together.
constexpr size_t kTicketsMax = 2047;

}  // namespace

// ---- places

Places::Places(const Executor::Parts& parts) : p_(parts) {
  for (const ObjectSpec& object : p_.workload.objects) {
    std::vector<Bytes>& at = offsets_.emplace_back();
    Bytes sum = 0;
    for (Bytes b : object.chunks) at.push_back(sum), sum += b;
    resident_index_.emplace_back(object.chunks.size(), kNone);
  }
  for (uint32_t i = 0; i < p_.plan.residents.size(); ++i) {
    const scheduler::Resident& r = p_.plan.residents[i];
    uint32_t& index = resident_index_[r.object][r.chunk];
    // With a device tier a chunk's home is where the compute reads it, if it has a place there.
    if (index == kNone || r.tier == Tier::kDevice) index = i;
  }
}

std::byte* Places::at(const Slot& slot, int64_t round) const {
  const auto arena = [&](Tier tier) {
    return tier == Tier::kDevice ? p_.device.data() : p_.host.data();
  };
  switch (slot.space) {
    case Space::kResident: {
      const scheduler::Resident& r = p_.plan.residents[slot.index];
      return arena(r.tier) + r.offset;
    }
    case Space::kRing: {
      const Ring& ring = p_.plan.rings[slot.area];
      return arena(ring.tier) + ring.offset +
             scheduler::ring_slot(ring, slot, round) * ring.slot_bytes;
    }
    case Space::kPool: {
      const Pool& pool = p_.plan.pools[slot.area];
      return arena(pool.tier) + pool.offset + slot.index * pool.slot_bytes;
    }
    case Space::kNone:
    case Space::kStore:
    case Space::kKv:
      break;
  }
  HEADRACE_ASSERT(false, "a slot without an address");
  return nullptr;
}

std::byte* Places::resident(ObjectId object, uint32_t chunk) const {
  const uint32_t index = resident_index_[object][chunk];
  HEADRACE_ASSERT(index != kNone, p_.workload.objects[object].name);
  return at({Space::kResident, 0, index}, 0);
}

namespace {

constexpr std::string_view kStall = "stall: ";  // before the cause, in traces
constexpr const char* kStallNames[kStallCauses] = {"stall: disk_read", "stall: disk_write",
                                                   "stall: copy"};

}  // namespace

const char* name_of(StallCause cause) {
  return kStallNames[static_cast<size_t>(cause)] + kStall.size();
}

void record_stall(const Executor::Parts& parts, ExecutorCounters& counters, StallCause cause,
                  uint64_t begin_ns) {
  const uint64_t end = steady_clock().now_ns();
  counters.stall_s[static_cast<size_t>(cause)] += static_cast<double>(end - begin_ns) * 1e-9;
  if (!parts.trace) return;
  const char* name = kStallNames[static_cast<size_t>(cause)];
  parts.trace->record({.name = name, .lane = 0, .begin_ns = begin_ns, .end_ns = end});
}

// ---- holes

Holes::Holes(const Executor::Parts& parts, const Places& places, ExecutorCounters& counters)
    : p_(parts), places_(places), counters_(counters), pools_(parts.pools) {
  HEADRACE_ASSERT(pools_.size() == p_.plan.pools.size());
  size_t candidates_max = 64, fetches_max = 64;
  for (const Hole& hole : p_.plan.holes) {
    const SegmentSpec& segment = p_.workload.segments[hole.segment];
    size_t chunks = 0;
    for (ObjectId id : segment.candidates) chunks += p_.workload.objects[id].chunks.size();
    const bool rows = segment.kind == SegmentKind::kEmbed;
    candidates_max = std::max(candidates_max, rows ? chunks : segment.candidates.size());
    fetches_max = std::max(fetches_max, chunks);
  }
  choices_.reserve(std::max<size_t>(candidates_max, size_t{p_.plan.rows_max} * 16));
  filled_.picks.reserve(candidates_max);
  distinct_.reserve(candidates_max);
  tickets_.reserve(fetches_max);
}

void Holes::open(const scheduler::Task& task) {
  hole_ = &p_.plan.holes[task.hole];
  segment_ = &p_.workload.segments[task.segment];
  std::sort(choices_.begin(), choices_.end());
  distinct_.clear();
  for (uint32_t candidate : choices_) {
    if (distinct_.empty() || distinct_.back().candidate != candidate)
      distinct_.push_back({candidate, 0});
    ++distinct_.back().rows;
  }
  if (p_.decisions) p_.decisions(task.hole, distinct_);
  scheduler::fill(p_.plan, p_.workload, *hole_, distinct_,
                  hole_->pool == kNone ? none_ : pools_[hole_->pool], filled_);
  next_ = started_ = computed_ = 0;
  tickets_.clear();
  awaited_ = wanted_ = 0;
  start_fetches();
}

std::optional<Holes::Ready> Holes::next() {
  computed_ = next_;  // with all that were handed out
  start_fetches();
  if (next_ == filled_.picks.size()) return std::nullopt;
  return hand_out();
}

std::optional<Holes::Ready> Holes::next_there() {
  if (next_ == filled_.picks.size() || !is_there(next_)) return std::nullopt;
  return hand_out();
}

Holes::Ready Holes::hand_out() {
  const Ready ready{filled_.picks[next_], chunks_of(filled_.picks[next_])};
  ++next_;
  if (ready.pick.fetch && !is_staged()) await_first(wanted_ += ready.chunks.size());
  return ready;
}

bool Holes::is_staged() const {
  return hole_->pool != kNone && p_.plan.pools[hole_->pool].staging != kNone;
}

bool Holes::is_there(size_t pick) {
  if (!filled_.picks[pick].fetch) return true;
  if (pick >= started_) return false;
  if (is_staged()) return true;
  for (size_t t = awaited_; t < wanted_ + chunks_of(filled_.picks[pick]).size(); ++t) {
    if (!p_.pager.done(tickets_[t])) return false;
  }
  return true;
}

ObjectId Holes::object_of(const Pick& pick) const {
  const bool rows = segment_->kind == SegmentKind::kEmbed;
  return segment_->candidates[rows ? 0 : pick.candidate];
}

Range Holes::chunks_of(const Pick& pick) const {
  if (segment_->kind == SegmentKind::kEmbed) return {pick.candidate, pick.candidate + 1};
  return {0, static_cast<uint32_t>(p_.workload.objects[object_of(pick)].chunks.size())};
}

// A fetch starts once its slot's last candidate in this pass, if any, has been computed with: all
// that were handed out are, when next() is called. They are under way before what is there keeps
// all processors busy.
void Holes::start_fetches() {
  const size_t before = tickets_.size();
  for (; started_ < filled_.picks.size(); ++started_) {
    const Pick& pick = filled_.picks[started_];
    if (!pick.fetch) continue;
    if (pick.after != kNone && pick.after >= computed_) break;
    fetch(pick);
  }
  if (tickets_.size() != before) p_.pager.flush();
}

void Holes::fetch(const Pick& pick) {
  const Pool& pool = p_.plan.pools[hole_->pool];
  const ObjectId object = object_of(pick);
  const Range chunks = chunks_of(pick);
  const Bytes first = places_.chunk_offset(object, chunks.begin);
  for (uint32_t c = chunks.begin; c < chunks.end; ++c) {
    swap::Transfer t{.object = object,
                     .chunk = c,
                     .kind = p_.workload.objects[object].kind,
                     .edge = {Tier::kDisk, pool.tier},
                     .priority = swap::Priority::kDemand};
    t.target = places_.at(pick.slot, 0) + (places_.chunk_offset(object, c) - first);
    if (pool.staging != kNone) {
      fetch_staged(pool, t);
      continue;
    }
    // Experts of hundreds of chunks, all wanted at once, are more than there are tickets.
    tickets_.push_back(p_.pager.start(t));
    if (tickets_.size() > kTicketsMax) await_first(tickets_.size() - kTicketsMax);
    ++counters_.transfers;
  }
}

// A pool on the device is filled through a staging slot on the host: read, then copy, one at a
// time.
void Holes::fetch_staged(const Pool& pool, const swap::Transfer& transfer) {
  const Ring& ring = p_.plan.rings[pool.staging];
  swap::Transfer read = transfer, copy = transfer;
  read.counted = false;
  read.target = p_.host.data() + ring.offset;
  await(p_.pager.start(read));
  copy.source = read.target;
  await(p_.pager.start(copy), StallCause::kCopy);  // and the one staging slot is free again
  counters_.transfers += 2;
}

void Holes::await(swap::Ticket ticket, StallCause cause) {
  if (p_.pager.done(ticket)) return p_.pager.wait(ticket);
  const uint64_t begin = steady_clock().now_ns();
  p_.pager.wait(ticket);
  record_stall(p_, counters_, cause, begin);
}

// Waits for the first `count` fetches of the hole.
void Holes::await_first(size_t count) {
  while (awaited_ < count) await(tickets_[awaited_++]);
}

}  // namespace headrace::engine
