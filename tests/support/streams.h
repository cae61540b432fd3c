// Small workloads and plans for tests of the simulator: layers of dense chunks that all stream,
// with the rounds written out by hand, so that the simulator is judged apart from the code that
// plans.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct Layer {
  std::vector<Bytes> chunks;
  double flops_per_row = 0;
};

// One object and one dense segment a layer.
inline Workload layered(const std::vector<Layer>& layers) {
  Workload workload;
  workload.model = "layers";
  for (const Layer& layer : layers) {
    const auto id = static_cast<uint32_t>(workload.objects.size());
    workload.objects.push_back({.id = id,
                                .kind = Kind::kWeights,
                                .name = "layers." + std::to_string(id),
                                .chunks = layer.chunks});
    SegmentSpec segment;
    segment.id = id;
    segment.kind = SegmentKind::kDense;
    segment.name = "layer " + std::to_string(id);
    segment.layer = id;
    segment.weights = {id};
    segment.cost.flops_per_row = layer.flops_per_row;
    workload.segments.push_back(std::move(segment));
  }
  return workload;
}

// Powers of two, so that times are exact sums.
inline Machine round_machine() {
  Machine machine;
  machine.name = "round";
  machine.threads = 2;
  machine.matmul_flops_f32 = 1ull << 37;
  machine.matmul_flops_bf16 = 1ull << 38;
  machine.memory_read_bytes_per_s = 1ull << 34;
  machine.rates = {{{Tier::kDisk, Tier::kHost}, 1ull << 30, 1.0 / 8192},
                   {{Tier::kHost, Tier::kDisk}, 1ull << 29, 1.0 / 4096},
                   {{Tier::kHost, Tier::kDevice}, 1ull << 31, 1.0 / 65536},
                   {{Tier::kDevice, Tier::kHost}, 1ull << 31, 1.0 / 65536}};
  return machine;
}

// Of a product whose operands take `read_s` to come and `multiply_s` to be multiplied.
inline double product_s(double read_s, double multiply_s) {
  return std::cbrt(read_s * read_s * read_s + multiply_s * multiply_s * multiply_s);
}

struct ChunkOf {
  ObjectId object = 0;
  uint32_t chunk = 0;
  Bytes bytes = 0;
};
inline std::vector<ChunkOf> chunks_of(const Workload& workload) {
  std::vector<ChunkOf> list;
  for (const ObjectSpec& object : workload.objects) {
    for (uint32_t c = 0; c < object.chunks.size(); ++c) {
      list.push_back({object.id, c, object.chunks[c]});
    }
  }
  return list;
}

inline uint32_t add_task(Round& round, Task task, const std::vector<TaskRef>& after) {
  task.after.begin = static_cast<uint32_t>(round.after.size());
  round.after.insert(round.after.end(), after.begin(), after.end());
  task.after.end = static_cast<uint32_t>(round.after.size());
  round.tasks.push_back(task);
  return static_cast<uint32_t>(round.tasks.size()) - 1;
}
inline Task fetch_task(const ChunkOf& chunk, bool staged = false) {
  Task task;
  task.kind = TaskKind::kFetch;
  task.lane = Lane::kDiskRead;
  task.object = chunk.object;
  task.chunk = chunk.chunk;
  task.bytes = chunk.bytes;
  task.edge = {Tier::kDisk, staged ? Tier::kDevice : Tier::kHost};
  task.counted = !staged;
  return task;
}
inline Task copy_task(const ChunkOf& chunk) {
  Task task = fetch_task(chunk);
  task.kind = TaskKind::kCopy;
  task.lane = Lane::kHostToDevice;
  task.edge = {Tier::kDisk, Tier::kDevice};
  return task;
}
inline Task forward_task(Round& round, const ChunkOf& chunk) {
  Task task;
  task.kind = TaskKind::kForward;
  task.segment = chunk.object;
  task.uses.begin = static_cast<uint32_t>(round.uses.size());
  round.uses.push_back({chunk.object, chunk.chunk, {}});
  task.uses.end = task.uses.begin + 1;
  return task;
}

// Fetch q may start when compute q - (depth + 1) has freed its slot.
inline Plan stream_plan(const Workload& workload, uint32_t depth) {
  const std::vector<ChunkOf> chunks = chunks_of(workload);
  const auto n = static_cast<uint32_t>(chunks.size());
  const uint32_t ahead = std::min(depth + 1, n);
  Plan plan;
  plan.enter.kind = RoundKind::kEnter;
  for (uint32_t i = 0; i < ahead; ++i) add_task(plan.enter, fetch_task(chunks[i]), {});
  for (uint32_t j = 0; j < n; ++j) {
    add_task(plan.steady, fetch_task(chunks[(j + ahead) % n]), {{n + j, 0}});
  }
  for (uint32_t j = 0; j < n; ++j) {
    const TaskRef feed = j >= ahead ? TaskRef{j - ahead, 0} : TaskRef{n - ahead + j, -1};
    add_task(plan.steady, forward_task(plan.steady, chunks[j]), {feed});
  }
  return plan;
}

// Disk to `staging` slots on the host to a ring of depth + 1 slots on the device. Needs at least
// depth + 1 + staging chunks.
inline Plan two_hop_plan(const Workload& workload, uint32_t depth, uint32_t staging) {
  const std::vector<ChunkOf> chunks = chunks_of(workload);
  const auto n = static_cast<uint32_t>(chunks.size());
  const uint32_t ahead = depth + 1, reads = ahead + staging;
  Plan plan;
  plan.enter.kind = RoundKind::kEnter;
  std::vector<uint32_t> read(reads), copy(ahead);
  for (uint32_t p = 0; p < reads; ++p) {
    std::vector<TaskRef> freed;
    if (p >= staging) freed.push_back({copy[p - staging], 0});
    read[p] = add_task(plan.enter, fetch_task(chunks[p], true), freed);
    if (p < ahead) copy[p] = add_task(plan.enter, copy_task(chunks[p]), {{read[p], 0}});
  }
  for (uint32_t j = 0; j < n; ++j) {
    const TaskRef staged =
        j >= staging ? TaskRef{n + j - staging, 0} : TaskRef{2 * n - staging + j, -1};
    add_task(plan.steady, copy_task(chunks[(j + ahead) % n]), {{2 * n + j, 0}, staged});
  }
  for (uint32_t i = 0; i < n; ++i) {
    add_task(plan.steady, fetch_task(chunks[(i + reads) % n], true), {{i, 0}});
  }
  for (uint32_t j = 0; j < n; ++j) {
    const TaskRef feed = j >= ahead ? TaskRef{j - ahead, 0} : TaskRef{n - ahead + j, -1};
    add_task(plan.steady, forward_task(plan.steady, chunks[j]), {feed});
  }
  return plan;
}

}  // namespace headrace::scheduler
