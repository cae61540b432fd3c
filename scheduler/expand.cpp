// From a decision to tasks and slots. Three sequences, each repeated pass after pass:
//   s_0 .. s_{N-1}   the dense chunks that are not resident where the compute reads, in order of
//                    use; "feed" q brings s_{q mod N} into position q of the computing tier's ring,
//   u_0 .. u_{K-1}   with a device: those of them that come from disk; "read" p brings u_{p mod K}
//                    into position p of the staging ring on the host.
// The enter round does feeds 0 .. A-1 and reads 0 .. a-1. A steady round does the next N feeds and
// the next K reads, each when the use A feeds before (the feed a-d reads before) has freed its
// slot; d is the number of reads that the first A feeds need. So a round leaves what it found,
// moved on.
#include <algorithm>

#include "core/error.h"
#include "scheduler/fill.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/search.h"

namespace headrace::scheduler {

namespace {

constexpr uint32_t kUsesMax = 64;  // of one kForward task: bounds what a task gathers

class Expansion {
 public:
  Expansion(const Workload& workload, const Decision& decision, bool has_device)
      : w_(workload),
        d_(decision),
        device_(has_device),
        compute_(has_device ? Tier::kDevice : Tier::kHost),
        home_(has_device ? Home::kDevice : Home::kHost),
        always_(always_resident(workload)),
        walk_(dense_walk(workload)) {}

  Plan run();

 private:
  void find_streams();
  void place_residents();
  void place_rings();
  void add_holes();
  void enter();
  void enter_object(ObjectId object);
  void enter_chunk(ObjectId object, uint32_t chunk);
  void enter_load(uint32_t resident);
  void enter_feed(uint32_t s);
  void enter_streams();
  void steady();
  void compute_tasks();
  void forward_task(uint32_t walked);
  void steady_feeds();
  void steady_reads();
  void totals();

  Bytes bytes_of_chunk(ObjectId object, uint32_t chunk) const {
    return w_.objects[object].chunks[chunk];
  }
  bool stays(ObjectId object, uint32_t chunk) const {
    return always_[object] || d_.home[object][chunk] == home_;
  }
  bool from_host(uint32_t s) const {  // position in streams_
    const DenseUse& use = walk_[streams_[s]];
    return device_ && d_.home[use.object][use.chunk] == Home::kHost;
  }
  bool all_stay(const SegmentSpec& segment) const;
  Task transfer(TaskKind kind, ObjectId object, uint32_t chunk, Slot from, Slot to) const;
  uint32_t push(Round& round, Task task, std::initializer_list<TaskRef> after);

  const Workload& w_;
  const Decision& d_;
  const bool device_;
  const Tier compute_;
  const Home home_;
  const std::vector<uint8_t> always_;
  const std::vector<DenseUse> walk_;  // of a pass
  std::vector<uint32_t> streams_;     // s: into walk_
  std::vector<uint32_t> reads_;       // u: into streams_; empty without a device
  uint32_t ahead_ = 0;                // A
  uint32_t reads_due_ = 0;            // d
  uint32_t reads_ahead_ = 0;          // a - d
  uint32_t ring_ = kNone, staging_ = kNone;
  std::vector<std::vector<uint32_t>> resident_;  // [object][chunk] in the computing tier
  std::vector<std::vector<uint32_t>> on_host_;   // [object][chunk] of the device's source
  std::vector<uint32_t> consumer_;               // steady task that uses s
  std::vector<uint32_t> staged_by_;              // enter: last copy out of each staging slot
  std::vector<uint32_t> loaded_;                 // enter: task that loads each resident
  uint32_t staged_ = 0;                          // enter: staging slots taken for residents
  Plan plan_;
};

Plan Expansion::run() {
  HEADRACE_ASSERT(d_.home.size() == w_.objects.size(), "a decision for another workload");
  plan_.model = w_.model;
  plan_.numerics = w_.numerics;
  plan_.policy = d_.policy;
  plan_.prefetch_depth = d_.depth;
  plan_.rows_max = d_.rows_max;
  plan_.workload_hash = workload_hash(w_);
  find_streams();
  place_residents();
  place_rings();
  add_holes();
  pack(w_, plan_);
  enter();
  steady();
  totals();
  return std::move(plan_);
}

void Expansion::find_streams() {
  for (uint32_t i = 0; i < walk_.size(); ++i) {
    if (!stays(walk_[i].object, walk_[i].chunk)) streams_.push_back(i);
  }
  const uint32_t n = static_cast<uint32_t>(streams_.size());
  ahead_ = std::min(d_.depth + 1, n);
  if (!device_) return;
  for (uint32_t s = 0; s < n; ++s) {
    if (from_host(s)) continue;
    if (s < ahead_) ++reads_due_;
    reads_.push_back(s);
  }
  // No chunk is read twice in the enter round unless every read is due at once.
  const uint32_t k = static_cast<uint32_t>(reads_.size());
  if (k > 0) reads_ahead_ = std::clamp(d_.depth + 1, 1u, std::max(1u, k - reads_due_));
}

void Expansion::place_residents() {
  // What segments read or look up; an object that none names stays on disk.
  std::vector<uint8_t> wanted = always_;
  for (const SegmentSpec& segment : w_.segments) {
    for (ObjectId id : segment.weights) wanted[id] = 1;
    for (ObjectId id : segment.candidates) wanted[id] = 1;
  }
  const auto place = [&](Tier tier, std::vector<std::vector<uint32_t>>& index, const auto& here) {
    index.resize(w_.objects.size());
    for (const ObjectSpec& object : w_.objects) {
      index[object.id].assign(object.chunks.size(), kNone);
      for (uint32_t c = 0; wanted[object.id] && c < object.chunks.size(); ++c) {
        if (!here(object.id, c)) continue;
        HEADRACE_ASSERT(object.chunks[c] % kBlock == 0, object.name);
        index[object.id][c] = static_cast<uint32_t>(plan_.residents.size());
        plan_.residents.push_back({object.id, c, tier, 0});
      }
    }
  };
  place(compute_, resident_, [&](ObjectId o, uint32_t c) { return stays(o, c); });
  if (!device_) return;
  place(Tier::kHost, on_host_,
        [&](ObjectId o, uint32_t c) { return !stays(o, c) && d_.home[o][c] == Home::kHost; });
}

void Expansion::place_rings() {
  Bytes slot = 0;
  for (uint32_t i : streams_) {
    slot = std::max(slot, bytes_of_chunk(walk_[i].object, walk_[i].chunk));
  }
  const uint32_t n = static_cast<uint32_t>(streams_.size());
  if (n > 0) {
    ring_ = static_cast<uint32_t>(plan_.rings.size());
    const uint32_t slots = std::max(ahead_, std::min(d_.ring_slots, n));
    plan_.rings.push_back({.tier = compute_, .slots = slots, .step = n, .slot_bytes = slot});
  }
  if (!device_) return;
  Bytes staged = 0;
  for (uint32_t s : reads_) {
    const DenseUse& use = walk_[streams_[s]];
    staged = std::max(staged, bytes_of_chunk(use.object, use.chunk));
  }
  for (const Resident& r : plan_.residents) {
    if (r.tier == Tier::kDevice) staged = std::max(staged, bytes_of_chunk(r.object, r.chunk));
  }
  if (staged == 0) return;
  staging_ = static_cast<uint32_t>(plan_.rings.size());
  plan_.rings.push_back({.tier = Tier::kHost,
                         .slots = std::max(1u, reads_ahead_),
                         .step = static_cast<uint32_t>(reads_.size()),
                         .slot_bytes = staged});
  staged_by_.assign(plan_.rings[staging_].slots, kNone);
}

bool Expansion::all_stay(const SegmentSpec& segment) const {
  return std::all_of(segment.candidates.begin(), segment.candidates.end(), [&](ObjectId id) {
    const uint32_t chunks = static_cast<uint32_t>(w_.objects[id].chunks.size());
    for (uint32_t c = 0; c < chunks; ++c) {
      if (!stays(id, c)) return false;
    }
    return true;
  });
}

// The pool with its staging slot is made with the first hole that needs it.
void Expansion::add_holes() {
  uint32_t rows_pool = kNone, experts_pool = kNone;
  for (const SegmentSpec& segment : w_.segments) {
    const bool rows = segment.kind == SegmentKind::kEmbed;
    if (!rows && segment.kind != SegmentKind::kExperts) continue;
    uint32_t& pool = rows ? rows_pool : experts_pool;
    Hole hole{.segment = segment.id,
              .source = rows ? Source::kTokens : Source::kRouter,
              .choices_per_row = rows ? 1 : segment.choices_per_row};
    if (!all_stay(segment)) {
      if (pool == kNone) {
        pool = static_cast<uint32_t>(plan_.pools.size());
        HEADRACE_ASSERT(pool < d_.pool_slots.size(), d_.policy + ": a hole without pool slots");
        plan_.pools.push_back({.tier = compute_, .slots = d_.pool_slots[pool], .evict = d_.evict});
        if (device_) {
          plan_.pools.back().staging = static_cast<uint32_t>(plan_.rings.size());
          plan_.rings.push_back({.tier = Tier::kHost, .slots = 1});
        }
      }
      Pool& p = plan_.pools[pool];
      for (ObjectId id : segment.candidates) {
        const std::vector<Bytes>& chunks = w_.objects[id].chunks;
        if (chunks.empty()) continue;
        const Bytes largest = *std::max_element(chunks.begin(), chunks.end());
        p.slot_bytes = std::max(p.slot_bytes, rows ? largest : w_.objects[id].bytes());
        if (!device_) continue;
        Bytes& staged = plan_.rings[p.staging].slot_bytes;
        staged = std::max(staged, largest);
      }
      hole.pool = pool;
    }
    plan_.holes.push_back(hole);
  }
}

Task Expansion::transfer(TaskKind kind, ObjectId object, uint32_t chunk, Slot from, Slot to) const {
  const bool copy = kind == TaskKind::kCopy;
  Task task;
  task.kind = kind;
  task.lane = copy ? Lane::kHostToDevice : Lane::kDiskRead;
  task.object = object;
  task.chunk = chunk;
  task.from = from;
  task.to = to;
  task.edge = copy ? Edge{Tier::kHost, Tier::kDevice} : Edge{Tier::kDisk, Tier::kHost};
  // Staging is no edge: from disk to device counts once, when the copy is done.
  const bool passes = copy ? from.space == Space::kRing : device_ && to.space == Space::kRing;
  if (passes) {
    task.edge = {Tier::kDisk, Tier::kDevice};
    task.counted = copy;
  }
  const bool from_disk = task.edge.from == Tier::kDisk;
  task.bytes = from_disk ? w_.read_bytes(object, chunk) : bytes_of_chunk(object, chunk);
  return task;
}

uint32_t Expansion::push(Round& round, Task task, std::initializer_list<TaskRef> after) {
  task.after.begin = static_cast<uint32_t>(round.after.size());
  round.after.insert(round.after.end(), after.begin(), after.end());
  task.after.end = static_cast<uint32_t>(round.after.size());
  round.tasks.push_back(task);
  return static_cast<uint32_t>(round.tasks.size()) - 1;
}

// ---------------------------------------------------------------------------------------- enter

// In the order of the first pass, which computes meanwhile: what stays, and between it the chunks
// that the ring holds at first. With a device those come last, through the staging ring.
void Expansion::enter() {
  plan_.enter.kind = RoundKind::kEnter;
  loaded_.assign(plan_.residents.size(), kNone);
  for (const ObjectSpec& object : w_.objects) {
    if (always_[object.id]) enter_object(object.id);
  }
  uint32_t walked = 0, filled = 0;
  for (const SegmentSpec& segment : w_.segments) {
    for (; walked < walk_.size() && walk_[walked].segment == segment.id; ++walked) {
      const DenseUse& use = walk_[walked];
      enter_chunk(use.object, use.chunk);
      const bool streams = filled < ahead_ && streams_[filled] == walked;
      if (streams && !device_) enter_feed(filled++);
    }
    for (ObjectId id : segment.weights) enter_object(id);
    for (ObjectId id : segment.candidates) enter_object(id);
  }
  if (device_) enter_streams();
}

void Expansion::enter_object(ObjectId object) {
  const uint32_t chunks = static_cast<uint32_t>(w_.objects[object].chunks.size());
  for (uint32_t c = 0; c < chunks; ++c) enter_chunk(object, c);
}

// Loads the places of a chunk that are not loaded yet.
void Expansion::enter_chunk(ObjectId object, uint32_t chunk) {
  for (const auto* index : {&resident_, &on_host_}) {
    if (index->empty() || (*index)[object][chunk] == kNone) continue;
    if (loaded_[(*index)[object][chunk]] == kNone) enter_load((*index)[object][chunk]);
  }
}

void Expansion::enter_feed(uint32_t s) {
  const DenseUse& use = walk_[streams_[s]];
  push(plan_.enter,
       transfer(TaskKind::kFetch, use.object, use.chunk, {Space::kStore, 0, 0},
                {Space::kRing, ring_, s}),
       {});
}

void Expansion::enter_load(uint32_t resident) {
  const Resident& r = plan_.residents[resident];
  const Slot to{Space::kResident, 0, resident}, store{Space::kStore, 0, 0};
  if (r.tier == Tier::kHost) {
    loaded_[resident] =
        push(plan_.enter, transfer(TaskKind::kFetch, r.object, r.chunk, store, to), {});
    return;
  }
  const uint32_t index = staged_++ % plan_.rings[staging_].slots;
  const Slot stage{Space::kRing, staging_, index};
  const Task read = transfer(TaskKind::kFetch, r.object, r.chunk, store, stage);
  const uint32_t last = staged_by_[index];
  const uint32_t fetch =
      last == kNone ? push(plan_.enter, read, {}) : push(plan_.enter, read, {{last, 0}});
  loaded_[resident] = staged_by_[index] =
      push(plan_.enter, transfer(TaskKind::kCopy, r.object, r.chunk, stage, to), {{fetch, 0}});
}

// With a device: feeds 0 .. A-1, copied from what stays on the host or read through staging.
void Expansion::enter_streams() {
  const uint32_t k = static_cast<uint32_t>(reads_.size());
  uint32_t reads = 0;
  const auto read = [&]() {  // u_p into position p of the staging ring
    const DenseUse& use = walk_[streams_[reads_[reads % k]]];
    const Slot stage{Space::kRing, staging_, reads};
    const uint32_t last = staged_by_[reads % plan_.rings[staging_].slots];
    ++reads;
    const Task task =
        transfer(TaskKind::kFetch, use.object, use.chunk, {Space::kStore, 0, 0}, stage);
    return last == kNone ? push(plan_.enter, task, {}) : push(plan_.enter, task, {{last, 0}});
  };
  for (uint32_t s = 0; s < ahead_; ++s) {
    const DenseUse& use = walk_[streams_[s]];
    const Slot to{Space::kRing, ring_, s};
    if (from_host(s)) {
      const uint32_t source = on_host_[use.object][use.chunk];
      push(plan_.enter,
           transfer(TaskKind::kCopy, use.object, use.chunk, {Space::kResident, 0, source}, to),
           {{loaded_[source], 0}});
    } else {
      const Slot stage{Space::kRing, staging_, reads};
      const uint32_t slot = reads % plan_.rings[staging_].slots;
      const uint32_t fetch = read();
      staged_by_[slot] = push(
          plan_.enter, transfer(TaskKind::kCopy, use.object, use.chunk, stage, to), {{fetch, 0}});
    }
  }
  while (k > 0 && reads < reads_due_ + reads_ahead_) read();
}

// --------------------------------------------------------------------------------------- steady

// Tasks in the list: feeds, reads, then the pass; so a feed's or a read's number is its index.
void Expansion::steady() {
  plan_.steady.kind = RoundKind::kSteady;
  plan_.steady.tasks.resize(streams_.size() + reads_.size());
  consumer_.assign(streams_.size(), kNone);
  compute_tasks();
  steady_feeds();
  steady_reads();
}

void Expansion::compute_tasks() {
  uint32_t walked = 0, hole = 0;
  for (const SegmentSpec& segment : w_.segments) {
    Task task;
    task.segment = segment.id;
    switch (segment.kind) {
      case SegmentKind::kDense:
        while (walked < walk_.size() && walk_[walked].segment == segment.id) {
          const uint32_t before = static_cast<uint32_t>(plan_.steady.uses.size());
          forward_task(walked);
          walked += static_cast<uint32_t>(plan_.steady.uses.size()) - before;
        }
        break;
      case SegmentKind::kRoute:
        task.kind = TaskKind::kRoute;
        push(plan_.steady, task, {});
        break;
      case SegmentKind::kEmbed:
      case SegmentKind::kExperts:
        task.kind = segment.kind == SegmentKind::kEmbed ? TaskKind::kEmbed : TaskKind::kExperts;
        task.hole = hole++;
        push(plan_.steady, task, {});
        break;
    }
  }
}

// One streamed chunk, or a run of resident chunks of one object.
void Expansion::forward_task(uint32_t walked) {
  const DenseUse first = walk_[walked];
  std::vector<Use>& uses = plan_.steady.uses;
  Task task;
  task.kind = TaskKind::kForward;
  task.segment = first.segment;
  task.uses.begin = static_cast<uint32_t>(uses.size());
  if (!stays(first.object, first.chunk)) {
    const uint32_t s = static_cast<uint32_t>(
        std::lower_bound(streams_.begin(), streams_.end(), walked) - streams_.begin());
    uses.push_back({first.object, first.chunk, {Space::kRing, ring_, s}});
    task.uses.end = task.uses.begin + 1;
    const uint32_t n = static_cast<uint32_t>(streams_.size());
    const TaskRef feed = s >= ahead_ ? TaskRef{s - ahead_, 0} : TaskRef{n - ahead_ + s, -1};
    consumer_[s] = push(plan_.steady, task, {feed});
    return;
  }
  for (uint32_t i = walked; i < walk_.size() && i - walked < kUsesMax; ++i) {
    const DenseUse& use = walk_[i];
    // An object listed twice in a row begins a new run at its first chunk.
    if (use.segment != first.segment || use.object != first.object ||
        use.chunk != first.chunk + (i - walked) || !stays(use.object, use.chunk)) {
      break;
    }
    uses.push_back(
        {use.object, use.chunk, {Space::kResident, 0, resident_[use.object][use.chunk]}});
  }
  task.uses.end = static_cast<uint32_t>(uses.size());
  push(plan_.steady, task, {});
}

void Expansion::steady_feeds() {
  const uint32_t n = static_cast<uint32_t>(streams_.size());
  const uint32_t k = static_cast<uint32_t>(reads_.size());
  uint32_t copied = 0;  // feeds of this round so far that came through staging: read d + copied
  for (uint32_t j = 0; j < n; ++j) {
    const uint32_t s = (j + ahead_) % n;
    const DenseUse& use = walk_[streams_[s]];
    const Slot to{Space::kRing, ring_, j + ahead_};
    const TaskRef freed{consumer_[j], 0};
    std::vector<TaskRef>& after = plan_.steady.after;
    Task task;
    const uint32_t begin = static_cast<uint32_t>(after.size());
    after.push_back(freed);
    if (!device_) {
      task = transfer(TaskKind::kFetch, use.object, use.chunk, {Space::kStore, 0, 0}, to);
    } else if (from_host(s)) {
      const Slot from{Space::kResident, 0, on_host_[use.object][use.chunk]};
      task = transfer(TaskKind::kCopy, use.object, use.chunk, from, to);
    } else {
      const Slot from{Space::kRing, staging_, reads_due_ + copied};
      task = transfer(TaskKind::kCopy, use.object, use.chunk, from, to);
      after.push_back(copied >= reads_ahead_ ? TaskRef{n + copied - reads_ahead_, 0}
                                             : TaskRef{n + k - reads_ahead_ + copied, -1});
      ++copied;
    }
    task.after = {begin, static_cast<uint32_t>(after.size())};
    plan_.steady.tasks[j] = task;
  }
}

void Expansion::steady_reads() {
  const uint32_t n = static_cast<uint32_t>(streams_.size());
  const uint32_t k = static_cast<uint32_t>(reads_.size());
  uint32_t i = 0;
  for (uint32_t j = 0; j < n && k > 0; ++j) {  // read i follows the i-th copy out of staging
    if (plan_.steady.tasks[j].from.space != Space::kRing) continue;
    const uint32_t position = i + reads_due_ + reads_ahead_;
    const DenseUse& use = walk_[streams_[reads_[position % k]]];
    Task task = transfer(TaskKind::kFetch, use.object, use.chunk, {Space::kStore, 0, 0},
                         {Space::kRing, staging_, position});
    task.after.begin = static_cast<uint32_t>(plan_.steady.after.size());
    plan_.steady.after.push_back({j, 0});
    task.after.end = task.after.begin + 1;
    plan_.steady.tasks[n + i] = task;
    ++i;
  }
}

void Expansion::totals() {
  for (const ObjectSpec& object : w_.objects) plan_.weights_bytes += object.bytes();
  plan_.sequences = std::max(1u, std::min(w_.sequences, d_.rows_max));
  plan_.outputs_max = std::min(w_.outputs_max, d_.rows_max);
  plan_.kv_blocks = w_.needs.kv_blocks;
  // Of the arenas alone, until the search has put everything else beside them.
  const Bytes arenas = plan_.arena_bytes[0] + plan_.arena_bytes[1];
  plan_.memory.slack = arenas - plan_.memory.resident_weights - plan_.memory.stream_ring;
  plan_.budget = arenas;
  const HoleBytes bytes = pass_bytes(plan_, w_, plan_.sequences);
  plan_.bytes = bytes.expected;
  plan_.bytes_least = bytes.least;
  plan_.bytes_most = bytes.most;
}

}  // namespace

Plan expand(const Workload& workload, const Decision& decision, const Room& room) {
  Plan plan = Expansion(workload, decision, room.has_device).run();
  HEADRACE_ASSERT(plan.arena_bytes[1] <= room.host, decision.policy);
  HEADRACE_ASSERT(!room.has_device || plan.arena_bytes[0] <= room.device, decision.policy);
  return plan;
}

}  // namespace headrace::scheduler
