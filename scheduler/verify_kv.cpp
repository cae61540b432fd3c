// What streams keys and values: each of its tasks once, in order, and with every edge that it
// needs. Edges must be there literally: transfers of a lane may end in any order.
#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "scheduler/kv.h"
#include "scheduler/verify_stages.h"

namespace headrace::scheduler {

namespace {

class KvCheck {
 public:
  KvCheck(const Plan& plan, const Workload& workload, Violations& out)
      : p_(plan), w_(workload), out_(out), segments_(kv_segments(workload)) {}

  void run() {
    check_shape();
    if (!ok_) return;
    find_tasks();
    for (uint32_t k = 0; ok_ && k < p_.kv.streamed.size(); ++k) check_layer(k);
  }

 private:
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    ok_ = false;
    out_.add(fmt::format(format, std::forward<Args>(args)...));
  }
  void check_shape();
  void find_tasks();
  void add(uint32_t t, const Task& task);
  void check_layer(uint32_t k);
  void need(uint32_t task, TaskRef ref);

  const Plan& p_;
  const Workload& w_;
  Violations& out_;
  const std::vector<SegmentId> segments_;
  std::vector<uint32_t> reads_, writes_;  // in the order of their lanes
  std::vector<uint32_t> first_, last_;    // by segment: its computations
  uint32_t end_ = kNone;                  // the last computation of a pass
  bool ok_ = true;
};

void KvCheck::check_shape() {
  const KvStream& kv = p_.kv;
  const size_t streamed = kv.streamed.size();
  if (kv.layers != segments_.size()) {
    return fail("{} layers have keys and values, not {}", segments_.size(), kv.layers);
  }
  if ((streamed == 0) != (kv.slots == 0) || kv.slots > streamed) {
    return fail("{} slots for keys and values of {} layers", kv.slots, streamed);
  }
  for (size_t i = 0; i < streamed; ++i) {
    if (kv.streamed[i] >= kv.layers || (i > 0 && kv.streamed[i] <= kv.streamed[i - 1])) {
      return fail("layers that stream keys and values are out of order");
    }
  }
  if (streamed > 0 && (kv.block_bytes == 0 || kv.block_bytes % kBlock != 0)) {
    return fail("keys and values in pieces of {} bytes", kv.block_bytes);
  }
  if (kv.block_bytes == 0) return;  // in no pieces: then the run says what they take
  const auto place = checked_mul(Bytes{p_.kv_blocks}, kv.block_bytes);
  const auto all = place ? checked_mul(*place, Bytes{kv_places(kv)}) : std::nullopt;
  if (!all || *all > p_.memory.kv) {
    fail("{} places of keys and values exceed {} bytes", kv_places(kv), p_.memory.kv);
  }
}

void KvCheck::find_tasks() {
  first_.assign(w_.segments.size(), kNone);
  last_.assign(w_.segments.size(), kNone);
  for (uint32_t t = 0; t < p_.steady.tasks.size(); ++t) {
    const Task& task = p_.steady.tasks[t];
    if (moves_kv(task)) {
      add(t, task);
    } else if (task.lane == Lane::kCompute) {
      end_ = t;
      last_[task.segment] = t;
      if (first_[task.segment] == kNone) first_[task.segment] = t;
    }
  }
  const size_t count = p_.kv.streamed.size();
  if (reads_.size() != count || writes_.size() != count) {
    fail("{} reads and {} writes of keys and values of {} layers", reads_.size(), writes_.size(),
         count);
  }
}

void KvCheck::add(uint32_t t, const Task& task) {
  const bool reads = task.kind == TaskKind::kKvRead;
  std::vector<uint32_t>& list = reads ? reads_ : writes_;
  const auto k = static_cast<uint32_t>(list.size());
  list.push_back(t);
  if (k >= p_.kv.streamed.size()) return;
  const Slot slot{Space::kKv, 0, k}, store{Space::kStore, 0, 0};
  const Edge edge = reads ? Edge{Tier::kDisk, Tier::kHost} : Edge{Tier::kHost, Tier::kDisk};
  const Lane lane = reads ? Lane::kDiskRead : Lane::kDiskWrite;
  const bool whole = task.segment == segments_[p_.kv.streamed[k]] && task.lane == lane &&
                     task.from == (reads ? store : slot) && task.to == (reads ? slot : store) &&
                     task.edge == edge && task.counted && task.bytes == 0 && task.object == kNone &&
                     task.chunk == 0 && task.hole == kNone && task.uses == Range{};
  if (!whole) fail("steady task {} does not move keys and values as layer {} needs", t, k);
}

void KvCheck::need(uint32_t task, TaskRef ref) {
  const Task& t = p_.steady.tasks[task];
  const auto begin = p_.steady.after.begin() + t.after.begin;
  const auto end = p_.steady.after.begin() + t.after.end;
  if (std::find(begin, end, ref) == end) {
    fail("steady task {} does not wait for task {} of round {}", task, ref.task, ref.round);
  }
}

void KvCheck::check_layer(uint32_t k) {
  const uint32_t segment = segments_[p_.kv.streamed[k]];
  const auto count = static_cast<uint32_t>(p_.kv.streamed.size());
  if (first_[segment] == kNone) return fail("{} computes nothing", w_.segments[segment].name);
  need(first_[segment], {reads_[k], 0});
  need(writes_[k], {last_[segment], 0});
  need(reads_[k], {end_, -1});
  need(reads_[k], {writes_[k], -1});
  const uint32_t slots = p_.kv.slots;
  need(reads_[k],
       k >= slots ? TaskRef{writes_[k - slots], 0} : TaskRef{writes_[count + k - slots], -1});
}

}  // namespace

void check_kv(const Plan& plan, const Workload& workload, Violations& out) {
  KvCheck(plan, workload, out).run();
}

}  // namespace headrace::scheduler
