#include "scheduler/plan.h"

#include <algorithm>

#include "core/error.h"

namespace headrace::scheduler {

std::vector<ByteRow> bytes_of(const Round& round) {
  std::vector<ByteRow> rows;
  for (const Task& task : round.tasks) {
    const bool moves = task.kind == TaskKind::kFetch || task.kind == TaskKind::kCopy;
    if (!moves || !task.counted) continue;
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const ByteRow& r) { return r.edge == task.edge; });
    if (row == rows.end()) row = rows.insert(row, {.edge = task.edge, .kind = Kind::kWeights});
    row->bytes += task.bytes;
    ++row->operations;
  }
  std::sort(rows.begin(), rows.end(), [](const ByteRow& a, const ByteRow& b) {
    return std::pair(a.edge.from, a.edge.to) < std::pair(b.edge.from, b.edge.to);
  });
  return rows;
}

uint32_t ring_slot(const Ring& ring, const Slot& slot, int64_t round) {
  HEADRACE_DEBUG_ASSERT(ring.slots > 0, "a ring without slots");
  const uint64_t passes = round < 0 ? 0 : static_cast<uint64_t>(round);
  // Both factors are taken modulo the slots first: neither product nor sum can wrap.
  const uint64_t moved = passes % ring.slots * (ring.step % ring.slots);
  return static_cast<uint32_t>((slot.index % ring.slots + moved) % ring.slots);
}

}  // namespace headrace::scheduler
