#include "scheduler/enter.h"

#include <map>
#include <tuple>

namespace headrace::scheduler {

namespace {

using Key = std::tuple<TaskKind, ObjectId, uint32_t, uint32_t, uint32_t>;

// What a transfer does: a ring's positions go on from round to round.
Key key_of(const Task& task, uint32_t moved_on) {
  const bool ring = task.to.space == Space::kRing;
  return {task.kind, task.object, task.chunk, ring ? task.to.area : kNone,
          ring ? task.to.index - moved_on : 0};
}

}  // namespace

EnterMatch match_enter(const Plan& plan, const Workload& workload) {
  EnterMatch out;
  out.of_resident.assign(plan.residents.size(), kNone);
  std::map<Key, uint32_t> last;
  std::vector<uint32_t> loader(workload.objects.size(), kNone);  // of each object's last chunk
  for (uint32_t t = 0; t < plan.enter.tasks.size(); ++t) {
    const Task& task = plan.enter.tasks[t];
    if (task.object != kNone) last[key_of(task, 0)] = t;
    if (task.to.space != Space::kResident || task.to.index >= plan.residents.size()) continue;
    out.of_resident[task.to.index] = t;
    if (task.object < loader.size()) loader[task.object] = t;
  }
  out.of_task.assign(plan.steady.tasks.size(), kNone);
  for (uint32_t t = 0; t < plan.steady.tasks.size(); ++t) {
    const Task& task = plan.steady.tasks[t];
    if (task.object == kNone) continue;
    const bool ring = task.to.space == Space::kRing && task.to.area < plan.rings.size();
    const auto found = last.find(key_of(task, ring ? plan.rings[task.to.area].step : 0));
    if (found != last.end()) out.of_task[t] = found->second;
  }
  for (const Hole& hole : plan.holes) {
    uint32_t& of = out.of_hole.emplace_back(kNone);
    if (hole.segment >= workload.segments.size()) continue;
    for (ObjectId id : workload.segments[hole.segment].candidates) {
      if (loader.at(id) != kNone && (of == kNone || of < loader[id])) of = loader[id];
    }
  }
  return out;
}

}  // namespace headrace::scheduler
