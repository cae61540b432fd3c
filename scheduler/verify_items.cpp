#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "core/checked.h"
#include "scheduler/fill.h"
#include "scheduler/packing.h"
#include "scheduler/search.h"
#include "scheduler/verify_stages.h"

namespace headrace::scheduler {

namespace {

class Items {
 public:
  Items(const Plan& plan, const Workload& workload, Violations& out)
      : p_(plan), w_(workload), out_(out), compute_(computing_tier_of(plan)) {}

  void run() {
    check_workload();
    check_areas();
    check_residents();
    check_holes();
    check_memory();
    if (!out_.empty()) return;  // transfers and uses point into what was checked so far
    check_enter();
    check_steady();
    if (out_.empty()) check_bytes();
  }

 private:
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    out_.add(fmt::format(format, std::forward<Args>(args)...));
  }
  bool known(ObjectId object, uint32_t chunk) const {
    return object < w_.objects.size() && chunk < w_.objects[object].chunks.size();
  }
  Bytes chunk_bytes(ObjectId object, uint32_t chunk) const {
    return w_.objects[object].chunks[chunk];
  }
  std::string name(ObjectId object, uint32_t chunk) const {
    return object < w_.objects.size() ? fmt::format("{} chunk {}", w_.objects[object].name, chunk)
                                      : fmt::format("object {} chunk {}", object, chunk);
  }

  void check_workload();
  void check_areas();
  void check_residents();
  void check_always(ObjectId object);
  void check_holes();
  void check_hole(uint32_t index, const SegmentSpec& segment);
  void check_pool(const Pool& pool, const SegmentSpec& segment);
  void check_memory();
  void check_enter();
  void check_steady();
  void check_transfer(const char* round, uint32_t index, const Task& task);
  void check_source(const char* round, uint32_t index, const Task& task);
  bool check_ring(const char* round, uint32_t index, const Slot& slot, Tier tier);
  void check_edges(const char* name, const Round& round, uint32_t index, const Task& task);
  void check_compute(uint32_t index, const Task& task);
  void check_use(uint32_t index, const Use& use);
  void check_walk();
  void check_bytes();

  struct Area {
    Bytes begin, end;
    bool operator<(const Area& other) const { return begin < other.begin; }
  };
  void add_area(const char* what, Tier tier, Bytes offset, uint64_t slots, Bytes slot_bytes);

  const Plan& p_;
  const Workload& w_;
  Violations& out_;
  const Tier compute_;
  std::vector<Area> areas_[2];
  std::vector<uint32_t> staging_;               // rings reserved for pools
  std::vector<std::vector<uint8_t>> resident_;  // [object][chunk] in the computing tier
};

void Items::check_workload() {
  if (p_.version != kPlanVersion) fail("version {} is not {}", p_.version, kPlanVersion);
  if (p_.workload_hash != workload_hash(w_)) fail("it was made for another model");
  if (p_.rows_max == 0 || p_.sequences == 0) fail("a pass without rows");
  if (p_.sequences > p_.rows_max) fail("{} sequences in {} rows", p_.sequences, p_.rows_max);
  if (p_.enter.kind != RoundKind::kEnter || p_.steady.kind != RoundKind::kSteady) {
    fail("rounds of the wrong kind");
  }
  for (size_t t = 0; t < 2; ++t) {
    if (p_.arena_bytes[t] % kHugePage != 0) fail("arena of {} bytes", p_.arena_bytes[t]);
  }
}

void Items::add_area(const char* what, Tier tier, Bytes offset, uint64_t slots, Bytes slot_bytes) {
  if (tier != Tier::kDevice && tier != Tier::kHost) return fail("{} on disk", what);
  const auto bytes = checked_mul(slots, slot_bytes);
  const auto end = bytes ? checked_add(offset, *bytes) : std::nullopt;
  if (!end || *end > p_.arena_bytes[static_cast<size_t>(tier)]) {
    return fail("{} at {} lies outside its arena", what, offset);
  }
  if (offset % kBlock != 0 || slot_bytes % kBlock != 0) {
    return fail("{} at {} is not aligned", what, offset);
  }
  if (*end > offset) areas_[static_cast<size_t>(tier)].push_back({offset, *end});
}

void Items::check_areas() {
  for (const Resident& r : p_.residents) {
    if (!known(r.object, r.chunk)) {
      fail("resident {} does not exist", name(r.object, r.chunk));
      continue;
    }
    add_area("a resident", r.tier, r.offset, 1, chunk_bytes(r.object, r.chunk));
  }
  for (const Ring& ring : p_.rings) {
    if (ring.slots == 0 || ring.slot_bytes == 0) fail("a ring without slots");
    add_area("a ring", ring.tier, ring.offset, ring.slots, ring.slot_bytes);
  }
  for (const Pool& pool : p_.pools) {
    if (pool.slots == 0 || pool.slot_bytes == 0) fail("a pool without slots");
    add_area("a pool", pool.tier, pool.offset, pool.slots, pool.slot_bytes);
  }
  for (auto& areas : areas_) {
    std::sort(areas.begin(), areas.end());
    for (size_t i = 1; i < areas.size(); ++i) {
      if (areas[i].begin < areas[i - 1].end) fail("two areas overlap at {}", areas[i].begin);
    }
  }
}

void Items::check_residents() {
  const auto key = [](const Resident& r) { return std::tuple(r.tier, r.object, r.chunk); };
  for (size_t i = 1; i < p_.residents.size(); ++i) {
    if (!(key(p_.residents[i - 1]) < key(p_.residents[i]))) {
      fail("residents {} and {} are out of order", i - 1, i);
    }
  }
  for (const ObjectSpec& object : w_.objects) {
    resident_.emplace_back(object.chunks.size(), 0);
  }
  for (const Resident& r : p_.residents) {
    if (known(r.object, r.chunk) && r.tier == compute_) resident_[r.object][r.chunk] = 1;
  }
  const std::vector<uint8_t> always = always_resident(w_);
  for (const ObjectSpec& object : w_.objects) {
    if (always[object.id]) check_always(object.id);
  }
}

// Such an object is bound once, by the address of its first chunk.
void Items::check_always(ObjectId object) {
  Bytes next = 0;
  uint32_t chunk = 0;
  for (const Resident& r : p_.residents) {
    if (r.object != object || r.tier != compute_ || !known(object, r.chunk)) continue;
    if (chunk > 0 && r.offset != next) fail("{} is not in one piece", name(object, chunk));
    next = r.offset + chunk_bytes(object, r.chunk);
    ++chunk;
  }
  if (chunk != w_.objects[object].chunks.size()) {
    fail("{} must stay and does not", w_.objects[object].name);
  }
}

void Items::check_holes() {
  uint32_t index = 0;
  for (const SegmentSpec& segment : w_.segments) {
    if (segment.kind != SegmentKind::kEmbed && segment.kind != SegmentKind::kExperts) continue;
    if (index >= p_.holes.size()) return fail("{} has no hole", segment.name);
    check_hole(index++, segment);
  }
  if (index != p_.holes.size()) fail("{} holes, {} segments with one", p_.holes.size(), index);
}

void Items::check_hole(uint32_t index, const SegmentSpec& segment) {
  const Hole& hole = p_.holes[index];
  const bool rows = segment.kind == SegmentKind::kEmbed;
  if (hole.segment != segment.id || hole.source != (rows ? Source::kTokens : Source::kRouter) ||
      hole.choices_per_row != (rows ? 1 : segment.choices_per_row)) {
    return fail("hole {} is not that of {}", index, segment.name);
  }
  const bool all =
      std::all_of(segment.candidates.begin(), segment.candidates.end(), [&](ObjectId id) {
        const auto& r = resident_[id];
        return std::find(r.begin(), r.end(), 0) == r.end();
      });
  if (hole.pool == kNone) {
    if (!all) fail("{} has neither a pool nor all its candidates", segment.name);
    return;
  }
  if (hole.pool >= p_.pools.size()) return fail("{} has pool {}", segment.name, hole.pool);
  check_pool(p_.pools[hole.pool], segment);
}

void Items::check_pool(const Pool& pool, const SegmentSpec& segment) {
  const bool rows = segment.kind == SegmentKind::kEmbed;
  Bytes whole = 0, chunk = 0;
  for (ObjectId id : segment.candidates) {
    const std::vector<Bytes>& chunks = w_.objects[id].chunks;
    for (Bytes b : chunks) chunk = std::max(chunk, b);
    whole = std::max(whole, w_.objects[id].bytes());
  }
  if (pool.tier != compute_) fail("the pool of {} is not where the compute is", segment.name);
  if (pool.slot_bytes < (rows ? chunk : whole)) fail("the pool of {} is too small", segment.name);
  if (compute_ == Tier::kHost) {
    if (pool.staging != kNone) fail("the pool of {} is staged on the host", segment.name);
    return;
  }
  if (pool.staging >= p_.rings.size()) return fail("the pool of {} has no staging", segment.name);
  const Ring& ring = p_.rings[pool.staging];
  if (ring.tier != Tier::kHost || ring.slot_bytes < chunk) {
    fail("the staging of {} is too small", segment.name);
  }
  staging_.push_back(pool.staging);
}

void Items::check_memory() {
  const MemorySplit& m = p_.memory;
  Bytes sum = 0;
  for (Bytes part : {m.base, m.resident_weights, m.stream_ring, m.kv, m.activations, m.gradients,
                     m.optimizer, m.workspace, m.io, m.slack}) {
    const auto next = checked_add(sum, part);
    if (!next) return fail("memory beyond all bounds");
    sum = *next;
  }
  if (sum != p_.budget) fail("memory sums to {}, the budget is {}", sum, p_.budget);
  if (!out_.empty()) return;
  Bytes residents = 0, streams = 0;
  for (const Resident& r : p_.residents) residents += chunk_bytes(r.object, r.chunk);
  for (const Ring& ring : p_.rings) streams += ring.slots * ring.slot_bytes;
  for (const Pool& pool : p_.pools) streams += pool.slots * pool.slot_bytes;
  if (residents != m.resident_weights) fail("residents are {} bytes", residents);
  if (streams != m.stream_ring) fail("rings and pools are {} bytes", streams);
  const auto arenas = checked_add(p_.arena_bytes[0], p_.arena_bytes[1]);
  if (!arenas || *arenas > residents + streams + m.slack) fail("the arenas exceed the budget");
}

void Items::check_enter() {
  std::vector<uint8_t> loaded(p_.residents.size(), 0);
  for (uint32_t t = 0; t < p_.enter.tasks.size(); ++t) {
    const Task& task = p_.enter.tasks[t];
    if (!is_transfer(task)) {
      fail("enter task {} is no transfer", t);
      continue;
    }
    check_edges("enter", p_.enter, t, task);
    check_transfer("enter", t, task);
    if (task.to.space != Space::kResident || task.to.index >= loaded.size()) continue;
    if (loaded[task.to.index]++) fail("enter task {} loads a resident again", t);
  }
  const size_t missing = static_cast<size_t>(std::count(loaded.begin(), loaded.end(), 0));
  if (missing > 0) fail("{} residents are never loaded", missing);
}

void Items::check_steady() {
  std::vector<uint32_t> into(p_.rings.size(), 0);
  for (uint32_t t = 0; t < p_.steady.tasks.size(); ++t) {
    const Task& task = p_.steady.tasks[t];
    check_edges("steady", p_.steady, t, task);
    if (moves_kv(task)) continue;
    if (!is_transfer(task)) {
      check_compute(t, task);
      continue;
    }
    check_transfer("steady", t, task);
    if (task.to.space != Space::kRing) {
      fail("steady task {} does not write a ring", t);
    } else if (task.to.area < into.size()) {
      ++into[task.to.area];
    }
  }
  for (size_t r = 0; r < into.size(); ++r) {
    if (into[r] != p_.rings[r].step)
      fail("ring {} steps by {}, not {}", r, p_.rings[r].step, into[r]);
  }
  if (out_.empty()) check_walk();
}

void Items::check_transfer(const char* round, uint32_t index, const Task& task) {
  const bool copy = task.kind == TaskKind::kCopy;
  if (task.lane != (copy ? Lane::kHostToDevice : Lane::kDiskRead)) {
    fail("{} task {} is on the wrong lane", round, index);
  }
  if (!(task.uses == Range{}) || task.hole != kNone || task.segment != kNone) {
    fail("{} task {} is a transfer that computes", round, index);
  }
  if (!known(task.object, task.chunk)) return fail("{} task {} moves nothing known", round, index);
  const bool from_disk = task.edge.from == Tier::kDisk;
  const Bytes moved =
      from_disk ? w_.read_bytes(task.object, task.chunk) : chunk_bytes(task.object, task.chunk);
  if (task.bytes != moved) {
    fail("{} task {} moves {} bytes of {}", round, index, task.bytes,
         name(task.object, task.chunk));
  }
  if (copy && compute_ != Tier::kDevice) fail("{} task {} copies to no device", round, index);
  check_source(round, index, task);
  const Tier target = copy || (compute_ == Tier::kHost) ? compute_ : Tier::kHost;
  if (task.to.space == Space::kRing) {
    if (!check_ring(round, index, task.to, target)) return;
    if (p_.rings[task.to.area].slot_bytes < chunk_bytes(task.object, task.chunk)) {
      fail("{} task {} is too large for its slot", round, index);
    }
  } else if (task.to.space == Space::kResident && task.to.index < p_.residents.size()) {
    const Resident& r = p_.residents[task.to.index];
    if (r.object != task.object || r.chunk != task.chunk || r.tier != target) {
      fail("{} task {} loads the place of {}", round, index, name(r.object, r.chunk));
    }
  } else {
    fail("{} task {} goes nowhere", round, index);
  }
}

// Where it comes from, and with that what it counts as.
void Items::check_source(const char* round, uint32_t index, const Task& task) {
  Edge edge{Tier::kDisk, Tier::kHost};
  bool counted = true;
  if (task.kind == TaskKind::kFetch) {
    if (task.from.space != Space::kStore) fail("{} task {} fetches from memory", round, index);
    const bool staged = compute_ == Tier::kDevice && task.to.space == Space::kRing;
    if (staged) edge.to = Tier::kDevice, counted = false;
  } else if (task.from.space == Space::kRing) {
    check_ring(round, index, task.from, Tier::kHost);
    edge.to = Tier::kDevice;
  } else if (task.from.space == Space::kResident && task.from.index < p_.residents.size()) {
    const Resident& r = p_.residents[task.from.index];
    if (r.object != task.object || r.chunk != task.chunk || r.tier != Tier::kHost) {
      fail("{} task {} copies {}", round, index, name(r.object, r.chunk));
    }
    edge = {Tier::kHost, Tier::kDevice};
  } else {
    fail("{} task {} comes from nowhere", round, index);
  }
  if (!(task.edge == edge) || task.counted != counted) {
    fail("{} task {} counts as {}", round, index, name_of(task.edge));
  }
}

bool Items::check_ring(const char* round, uint32_t index, const Slot& slot, Tier tier) {
  const bool is = slot.area < p_.rings.size() && p_.rings[slot.area].tier == tier &&
                  std::find(staging_.begin(), staging_.end(), slot.area) == staging_.end();
  if (!is) fail("{} task {} uses ring {}", round, index, slot.area);
  return is;
}

void Items::check_edges(const char* name, const Round& round, uint32_t index, const Task& task) {
  if (task.after.begin > task.after.end || task.after.end > round.after.size() ||
      task.uses.begin > task.uses.end || task.uses.end > round.uses.size()) {
    return fail("{} task {} has ranges outside its round", name, index);
  }
  for (uint32_t i = task.after.begin; i < task.after.end; ++i) {
    const TaskRef& ref = round.after[i];
    const bool before = ref.round == -1 && round.kind == RoundKind::kSteady;
    if (ref.task >= round.tasks.size() || (ref.round != 0 && !before)) {
      fail("{} task {} waits for task {} of round {}", name, index, ref.task, ref.round);
    }
  }
}

void Items::check_compute(uint32_t index, const Task& task) {
  if (task.lane != Lane::kCompute) fail("steady task {} computes on the wrong lane", index);
  if (task.segment >= w_.segments.size()) return fail("steady task {} computes nothing", index);
  constexpr TaskKind kKinds[] = {TaskKind::kEmbed, TaskKind::kForward, TaskKind::kRoute,
                                 TaskKind::kExperts};
  const SegmentKind kind = w_.segments[task.segment].kind;
  if (task.kind != kKinds[static_cast<size_t>(kind)]) {
    fail("steady task {} is of the wrong kind", index);
  }
  const bool hole = kind == SegmentKind::kEmbed || kind == SegmentKind::kExperts;
  if (hole ? task.hole >= p_.holes.size() || p_.holes[task.hole].segment != task.segment
           : task.hole != kNone) {
    fail("steady task {} has the wrong hole", index);
  }
  if (kind == SegmentKind::kDense ? task.uses.size() == 0 : !(task.uses == Range{})) {
    fail("steady task {} reads {} chunks", index, task.uses.size());
  }
  const Task none;
  if (task.object != none.object || task.chunk != none.chunk || !(task.from == none.from) ||
      !(task.to == none.to) || task.bytes != 0 || !(task.edge == none.edge) || !task.counted) {
    fail("steady task {} computes and moves", index);
  }
  if (task.uses.begin > task.uses.end || task.uses.end > p_.steady.uses.size()) return;
  for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) check_use(index, p_.steady.uses[u]);
}

void Items::check_use(uint32_t index, const Use& use) {
  if (!known(use.object, use.chunk)) return fail("steady task {} reads nothing known", index);
  if (use.slot.space == Space::kRing) {
    check_ring("steady", index, use.slot, compute_);
    return;
  }
  if (use.slot.space == Space::kResident && use.slot.index < p_.residents.size()) {
    const Resident& r = p_.residents[use.slot.index];
    if (r.object == use.object && r.chunk == use.chunk && r.tier == compute_) return;
  }
  fail("steady task {} reads {} where it is not", index, name(use.object, use.chunk));
}

// Every segment in order, each walking all chunks of its objects in order, once.
void Items::check_walk() {
  const std::vector<DenseUse> walk = dense_walk(w_);
  size_t walked = 0;
  SegmentId next = 0;  // segments before it are done, but for what is left of a dense one
  for (uint32_t t = 0; t < p_.steady.tasks.size(); ++t) {
    const Task& task = p_.steady.tasks[t];
    if (is_transfer(task) || moves_kv(task)) continue;
    if (task.kind == TaskKind::kForward) {
      for (uint32_t u = task.uses.begin; u < task.uses.end; ++u, ++walked) {
        const Use& use = p_.steady.uses[u];
        if (walked >= walk.size() || walk[walked].segment != task.segment ||
            walk[walked].object != use.object || walk[walked].chunk != use.chunk ||
            use.object != p_.steady.uses[task.uses.begin].object) {
          return fail("steady task {} reads {} out of turn", t, name(use.object, use.chunk));
        }
      }
    }
    // Dense segments without weights have no task.
    while (next < task.segment && w_.segments[next].kind == SegmentKind::kDense) ++next;
    const bool again = next == task.segment + 1 && task.kind == TaskKind::kForward;
    if (next != task.segment && !again) return fail("steady task {} is out of turn", t);
    next = task.segment + 1;
  }
  while (next < w_.segments.size() && w_.segments[next].kind == SegmentKind::kDense) ++next;
  if (walked != walk.size() || next != w_.segments.size()) fail("the pass ends too early");
}

void Items::check_bytes() {
  const HoleBytes bytes = pass_bytes(p_, w_, p_.sequences);
  if (p_.bytes_least != bytes.least || p_.bytes_most != bytes.most) {
    fail("a pass moves {} to {} bytes, not {} to {}", bytes.least, bytes.most, p_.bytes_least,
         p_.bytes_most);
  }
  if (p_.bytes < p_.bytes_least || p_.bytes > p_.bytes_most) {
    fail("{} bytes expected of a pass", p_.bytes);
  }
}

}  // namespace

void check_items(const Plan& plan, const Workload& workload, Violations& out) {
  Items(plan, workload, out).run();
}

}  // namespace headrace::scheduler
