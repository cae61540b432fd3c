#include "scheduler/kv.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "scheduler/fill.h"

namespace headrace::scheduler {

namespace {

Bytes times(Bytes a, Bytes b) {
  return checked_mul(a, b).value_or(std::numeric_limits<Bytes>::max());
}

uint32_t window_of(const Needs& needs, uint32_t layer) {
  return layer < needs.kv_windows.size() ? needs.kv_windows[layer] : 0;
}

// Blocks with tokens before `first` that a row at `first` sees, or that it is appended to.
uint64_t blocks_seen(uint64_t first, uint64_t window, uint64_t block_tokens) {
  const uint64_t seen = window != 0 && first >= window ? first + 1 - window : 0;
  return (first + block_tokens - 1) / block_tokens - seen / block_tokens;
}

// Puts the tasks that stream keys and values into a steady round. A read stands in the disk's lane
// where its slot has just become free: before what is read for computations after that.
class Insertion {
 public:
  Insertion(Plan& plan, const Workload& workload)
      : plan_(plan), old_(plan.steady), segments_(kv_segments(workload)) {
    const size_t count = plan.kv.streamed.size();
    reads_.resize(count), writes_.resize(count), due_.resize(count), first_.resize(count);
    last_.resize(count);
  }

  void run() {
    find_computations();
    renumber();
    for (uint32_t t = 0; t < order_.size(); ++t) edges(t);
    plan_.steady = std::move(new_);
  }

 private:
  static constexpr uint32_t kRead = 1u << 31, kWrite = 1u << 30;  // in order_: the k-th of these

  bool computes(const Task& task) const { return task.lane == Lane::kCompute; }
  uint32_t segment_of(size_t k) const { return segments_[plan_.kv.streamed[k]]; }

  void find_computations();
  void renumber();
  void edges(uint32_t t);
  void wait(TaskRef ref) { new_.after.push_back(ref); }

  Plan& plan_;
  const Round old_;
  const std::vector<SegmentId> segments_;
  std::vector<uint32_t> reads_, writes_;  // k: new number
  std::vector<uint32_t> first_, last_;    // k: old number of its segment's computations
  std::vector<uint32_t> due_;             // k: streamed chunks used before its read may start
  uint32_t end_ = kNone;                  // the round's last computation
  std::vector<uint32_t> order_, moved_;   // new to old; old to new
  Round new_;
};

void Insertion::find_computations() {
  const size_t count = due_.size(), slots = plan_.kv.slots;
  std::vector<uint32_t> before(count, 0), until(count, 0);  // streamed chunks used by then
  std::fill(first_.begin(), first_.end(), kNone);
  uint32_t used = 0;
  for (uint32_t t = 0; t < old_.tasks.size(); ++t) {
    const Task& task = old_.tasks[t];
    if (!computes(task)) continue;
    end_ = t;
    const uint32_t begin = used;
    for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) {
      used += old_.uses[u].slot.space == Space::kRing;
    }
    for (size_t k = 0; k < count; ++k) {
      if (task.segment != segment_of(k)) continue;
      if (first_[k] == kNone) first_[k] = t, before[k] = begin;
      last_[k] = t, until[k] = used;
    }
  }
  for (size_t k = 0; k < count; ++k) {
    HEADRACE_ASSERT(first_[k] != kNone, "keys and values of a segment without weights");
    // One chunk's read more, for the disk to do while the slot is written back.
    due_[k] = k < slots ? 0 : std::min(until[k - slots] + 1, before[k]);
  }
}

void Insertion::renumber() {
  moved_.resize(old_.tasks.size());
  size_t next = 0, feeds = 0;
  const auto read_until = [&](uint64_t use) {
    for (; next < due_.size() && due_[next] <= use; ++next) {
      reads_[next] = static_cast<uint32_t>(order_.size());
      order_.push_back(kRead | static_cast<uint32_t>(next));
    }
  };
  for (uint32_t t = 0; t < old_.tasks.size(); ++t) {
    const Task& task = old_.tasks[t];
    if (computes(task)) {
      read_until(kNone);
    } else if (task.lane == Lane::kDiskRead) {
      // With a device what reads is behind the copy whose number its first edge tells.
      const bool staged = !task.counted;
      read_until(staged ? old_.after[task.after.begin].task : feeds++);
    }
    moved_[t] = static_cast<uint32_t>(order_.size());
    order_.push_back(t);
  }
  read_until(kNone);
  for (uint32_t k = 0; k < writes_.size(); ++k) {
    writes_[k] = static_cast<uint32_t>(order_.size());
    order_.push_back(kWrite | k);
  }
  new_.kind = RoundKind::kSteady;
  new_.uses = old_.uses;
}

void Insertion::edges(uint32_t t) {
  const uint32_t from = order_[t];
  const auto begin = static_cast<uint32_t>(new_.after.size());
  const auto count = static_cast<uint32_t>(due_.size());
  Task task;
  if ((from & kRead) != 0) {
    const uint32_t k = from & ~kRead, slots = plan_.kv.slots;
    task = {.kind = TaskKind::kKvRead, .lane = Lane::kDiskRead, .segment = segment_of(k)};
    task.from = {Space::kStore, 0, 0};
    task.to = {Space::kKv, 0, k};
    wait({moved_[end_], -1});  // only then the positions are known
    wait({writes_[k], -1});
    wait(k >= slots ? TaskRef{writes_[k - slots], 0} : TaskRef{writes_[count + k - slots], -1});
  } else if ((from & kWrite) != 0) {
    const uint32_t k = from & ~kWrite;
    task = {.kind = TaskKind::kKvWrite, .lane = Lane::kDiskWrite, .segment = segment_of(k)};
    task.from = {Space::kKv, 0, k};
    task.to = {Space::kStore, 0, 0};
    task.edge = {Tier::kHost, Tier::kDisk};
    wait({moved_[last_[k]], 0});
  } else {
    task = old_.tasks[from];
    for (uint32_t a = task.after.begin; a < task.after.end; ++a) {
      wait({moved_[old_.after[a].task], old_.after[a].round});
    }
    for (uint32_t k = 0; k < count; ++k) {
      if (first_[k] == from) wait({reads_[k], 0});
    }
  }
  task.after = {begin, static_cast<uint32_t>(new_.after.size())};
  new_.tasks.push_back(task);
}

}  // namespace

std::vector<SegmentId> kv_segments(const Workload& workload) {
  std::vector<SegmentId> out;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind == SegmentKind::kDense && segment.cost.kv_bytes_per_row > 0) {
      out.push_back(segment.id);
    }
  }
  return out;
}

Bytes kv_memory(const Needs& needs) {
  const Bytes streamed = times(needs.kv_streamed, needs.kv_layer_block);
  return times(needs.kv_blocks, needs.kv_block - std::min(needs.kv_block, streamed) +
                                    times(needs.kv_slots, needs.kv_layer_block));
}

Bytes kv_scratch(const Needs& needs) {
  return times(needs.kv_blocks, times(needs.kv_streamed, needs.kv_layer_block));
}

Bytes kv_account(const Needs& needs) {
  if (needs.kv_streamed == 0) return 0;
  constexpr Bytes kPerGroup = 64, kPerLayerBlock = 9, kFixed = 2 * kMiB;
  const std::set<uint32_t> windows(needs.kv_windows.begin(), needs.kv_windows.end());
  const Bytes groups = std::max<size_t>(1, windows.size());
  const Bytes per_block = groups * kPerGroup + Bytes{needs.kv_streamed} * kPerLayerBlock;
  return round_up(kFixed + Bytes{needs.kv_blocks} * per_block, kBlock);
}

std::vector<uint32_t> spread_layers(uint32_t layers, uint32_t streamed) {
  std::vector<uint32_t> out;
  for (uint64_t i = 0; i < layers; ++i) {
    // As many of the first i + 1 as their share, rounded down: the last one always streams.
    if ((i + 1) * streamed / layers > out.size()) out.push_back(static_cast<uint32_t>(i));
  }
  return out;
}

void stream_kv(Plan& plan, const Workload& workload) {
  const Needs& needs = workload.needs;
  const auto layers = static_cast<uint32_t>(kv_segments(workload).size());
  plan.kv = {.layers = layers, .block_bytes = needs.kv_layer_block};
  if (needs.kv_streamed == 0) return;
  HEADRACE_ASSERT(needs.kv_streamed <= layers && needs.kv_slots > 0 &&
                  needs.kv_slots <= needs.kv_streamed);
  plan.kv.slots = needs.kv_slots;
  plan.kv.streamed = spread_layers(layers, needs.kv_streamed);
  Insertion(plan, workload).run();
  const HoleBytes bytes = pass_bytes(plan, workload, plan.sequences);
  plan.bytes = bytes.expected;
  plan.bytes_least = bytes.least;
  plan.bytes_most = bytes.most;
}

uint32_t kv_place(const KvStream& kv, uint32_t layer, int64_t round) {
  const auto at = std::lower_bound(kv.streamed.begin(), kv.streamed.end(), layer);
  const auto before = static_cast<uint32_t>(at - kv.streamed.begin());
  if (at == kv.streamed.end() || *at != layer) return layer - before;
  const auto streamed = static_cast<uint32_t>(kv.streamed.size());
  const Ring ring{.slots = kv.slots, .step = streamed};
  return kv.layers - streamed + ring_slot(ring, {Space::kKv, 0, before}, round);
}

uint32_t kv_places(const KvStream& kv) {
  return kv.layers - static_cast<uint32_t>(kv.streamed.size()) + kv.slots;
}

KvMoves::KvMoves(uint32_t blocks, uint32_t window) : window_(window), marks_(blocks) {
  reads_.reserve(blocks / 2 + 1);
  writes_.reserve(blocks / 2 + 1);
}

void KvMoves::clear() {
  std::fill(marks_.begin(), marks_.end(), 0);
  reads_.clear(), writes_.clear();
  read_blocks_ = written_blocks_ = 0;
}

void KvMoves::mark(uint32_t block, uint8_t how) {
  HEADRACE_ASSERT(block < marks_.size(), "a block that the plan does not have");
  marks_[block] |= how;
}

void KvMoves::close() {
  const auto add = [](std::vector<Range>& runs, uint32_t block) {
    if (!runs.empty() && runs.back().end == block) {
      ++runs.back().end;
    } else {
      runs.push_back({block, block + 1});
    }
  };
  for (uint32_t block = 0; block < marks_.size(); ++block) {
    if ((marks_[block] & kRead) != 0) add(reads_, block), ++read_blocks_;
    if ((marks_[block] & kWritten) != 0) add(writes_, block), ++written_blocks_;
  }
}

std::vector<KvGroup> kv_groups(const Plan& plan, const Workload& workload) {
  std::vector<KvGroup> groups;
  for (uint32_t index = 0; index < plan.kv.streamed.size(); ++index) {
    const uint32_t window = window_of(workload.needs, plan.kv.streamed[index]);
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const KvGroup& group) { return group.window == window; });
    if (at == groups.end()) at = groups.insert(groups.end(), KvGroup{.window = window});
    at->members.push_back(index);
  }
  return groups;
}

KvBytes kv_expected_of(const Plan& plan, const Workload& workload, const PassRows& rows,
                       uint32_t index) {
  const uint64_t tokens = workload.needs.kv_block_tokens;
  const uint64_t sequences = std::max(1u, rows.sequences == 0 ? rows.rows : rows.sequences);
  const uint64_t each = std::max<uint64_t>(1, rows.rows / sequences);
  const uint64_t end = std::max<uint64_t>(each, rows.context), first = end - each;
  const auto blocks = [&](uint64_t count) {
    return std::min<uint64_t>(plan.kv_blocks, sequences * count) * plan.kv.block_bytes;
  };
  const uint32_t window = window_of(workload.needs, plan.kv.streamed[index]);
  return {.read = blocks(blocks_seen(first, window, tokens)),
          .written = blocks((end + tokens - 1) / tokens - first / tokens)};
}

KvBytes kv_expected(const Plan& plan, const Workload& workload, const PassRows& rows) {
  KvBytes sum;
  for (uint32_t index = 0; index < plan.kv.streamed.size(); ++index) {
    const KvBytes one = kv_expected_of(plan, workload, rows, index);
    sum.read += one.read;
    sum.written += one.written;
  }
  return sum;
}

KvBytes kv_least(const Plan& plan, uint32_t rows) {
  const Bytes layers = times(plan.kv.streamed.size(), plan.kv.block_bytes);
  return {.read = 0, .written = times(std::min(rows, plan.kv_blocks), layers)};
}

KvBytes kv_most(const Plan& plan, const Workload& workload, uint32_t rows) {
  const uint64_t tokens = workload.needs.kv_block_tokens;
  Bytes blocks = 0;
  for (uint32_t layer : plan.kv.streamed) {
    const uint64_t window = window_of(workload.needs, layer);
    // Of a window that begins anywhere in a block.
    const uint64_t each = window == 0 ? plan.kv_blocks : (window + 2 * tokens - 3) / tokens;
    blocks += std::min<uint64_t>(plan.kv_blocks, rows * each);
  }
  return {.read = times(blocks, plan.kv.block_bytes), .written = kv_least(plan, rows).written};
}

Bytes kv_attended(const Workload& workload) {
  const Needs& needs = workload.needs;
  const uint64_t before = std::max(1u, workload.context) - 1;  // tokens of each sequence
  const auto of_layer = [&](uint32_t window) {
    const uint64_t seen = blocks_seen(before, window, needs.kv_block_tokens);
    return std::min<uint64_t>(needs.kv_blocks, seen * workload.sequences);
  };
  if (needs.kv_windows.empty()) return of_layer(0) * needs.kv_block;
  Bytes blocks = 0;
  for (uint32_t window : needs.kv_windows) blocks += of_layer(window);
  return blocks * needs.kv_layer_block;
}

}  // namespace headrace::scheduler
