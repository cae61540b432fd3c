// Derivations are in docs/design/002-bounds.md; the comments here say what each term is.
#include "scheduler/bound.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {
namespace {

Bytes less(Bytes all, Bytes part) { return all > part ? all - part : 0; }

// What any pass touches, whatever the data are. Every object counts once however many segments use
// it; of a layer's experts only the cheapest that one row can choose; of the embedding nothing, as
// the next token's chunk may be the one that is there already.
Bytes touched(const Workload& workload) {
  std::vector<bool> walked(workload.objects.size(), false);
  std::vector<uint32_t> offered(workload.objects.size(), 0);  // by how many expert segments
  Bytes sum = 0;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind == SegmentKind::kExperts) {
      for (ObjectId object : segment.candidates) ++offered.at(object);
    }
    for (ObjectId object : segment.weights) {
      if (!walked.at(object)) sum += workload.objects[object].bytes();
      walked[object] = true;
    }
  }
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind != SegmentKind::kExperts) continue;
    std::vector<Bytes> sizes;
    for (ObjectId object : segment.candidates) {
      // One that something else uses too may cost this segment nothing.
      const bool shared = walked[object] || offered[object] > 1;
      sizes.push_back(shared ? 0 : workload.objects[object].bytes());
    }
    const size_t count = std::min<size_t>(sizes.size(), segment.choices_per_row);
    std::partial_sort(sizes.begin(), sizes.begin() + static_cast<ptrdiff_t>(count), sizes.end());
    for (size_t i = 0; i < count; ++i) sum += sizes[i];
  }
  return sum;
}

// All the memory that could hold weights: the budget less what a pass of one row needs besides.
Bytes room_for_weights(const Workload& workload, const Budgets& budgets) {
  const Needs& needs = workload.needs;
  Bytes memory = budgets.memory;
  if (budgets.device_memory && !budgets.device_within_memory) memory += *budgets.device_memory;
  // A cap on KV may make a plan hold less of it than the requests could fill.
  Bytes kv = needs.kv_streamed == 0 ? kv_memory(needs) : 0;
  if (budgets.kv_memory) kv = std::min(kv, *budgets.kv_memory);
  const Bytes activations =
      needs.activation_fixed + needs.activation_per_row + needs.activation_per_output;
  return less(memory, needs.base + needs.requests + kv + activations + needs.workspace + needs.io);
}

// The fewest bytes read for a byte in memory, of all chunks that may have to be.
double least_read(const Workload& workload) {
  double least = 1;
  for (const ObjectSpec& object : workload.objects) {
    for (uint32_t c = 0; !object.always_resident && c < object.chunks.size(); ++c) {
      const auto read = static_cast<double>(workload.read_bytes(object.id, c));
      least = std::min(least, read / static_cast<double>(object.chunks[c]));
    }
  }
  return least;
}

}  // namespace

// Keys and values that need not stay are attended to in every pass, as weights are touched: what of
// both together finds no room is read. A cap keeps room from them that weights then have.
Bytes bound_bytes(const Workload& workload, const Budgets& budgets) {
  const Needs& needs = workload.needs;
  const Bytes weights = touched(workload), room = room_for_weights(workload, budgets);
  Bytes moved = less(weights, room);
  if (needs.kv_streamed > 0) {
    const Bytes kv = kv_attended(workload);
    const Bytes kept = std::min(kv, budgets.kv_memory.value_or(kv));
    moved = weights + kv - std::min(weights + kept, room);
  }
  if (workload.reads.empty()) return moved;
  return static_cast<Bytes>(static_cast<double>(moved) * least_read(workload));
}

double bound_seconds(const Workload& workload, const Machine& machine, Bytes bytes, uint32_t rows) {
  double flops = 0;
  for (const SegmentSpec& segment : workload.segments) {
    // The head computes only the rows whose logits are wanted, at least one.
    const bool head = segment.kind == SegmentKind::kDense && segment.layer == kNone;
    const double choices = segment.kind == SegmentKind::kExperts ? segment.choices_per_row : 1;
    flops += segment.cost.flops_per_row * choices * (head ? 1 : rows);
  }
  const double rate = workload.bf16_products ? machine.matmul_flops_bf16 : machine.matmul_flops_f32;
  double least = 0;
  if (machine.memory_read_bytes_per_s > 0) {
    least = static_cast<double>(touched(workload)) / machine.memory_read_bytes_per_s;
  }
  if (rate > 0) least = std::max(least, flops / rate);
  for (const Rate& edge : machine.rates) {
    if (edge.edge == Edge{Tier::kDisk, Tier::kHost} && edge.bytes_per_s > 0) {
      least = std::max(least, static_cast<double>(bytes) / edge.bytes_per_s);
    }
  }
  return least;
}

double grouped_bound(const GroupedShape& shape) {
  const auto more = [](double x) { return std::max(0.0, x); };
  const double layers = shape.layers, capacity = shape.capacity;
  const double weights = layers * shape.weights, gradients = layers * shape.gradients;
  const double optimizer = shape.host_update ? 0 : layers * shape.optimizer;
  HEADRACE_ASSERT(shape.layers >= 2 && shape.group > 0);
  const uint32_t groups = (shape.micro_batches + shape.group - 1) / shape.group;
  double in = 0, out = 0;
  for (uint32_t q = 0; q < groups; ++q) {
    const double rows =
        std::min(shape.micro_batches, (q + 1) * shape.group) - static_cast<double>(q) * shape.group;
    const double boundary = rows * shape.activation;
    const double stash = boundary * (layers - 1);
    const double sums = q > 0 ? gradients : 0;
    const double states = q + 1 == groups ? optimizer : 0;
    // The forward sweep. After a host update the device has no weight that is still valid.
    in += shape.host_update && q == 0 ? weights : more(weights - capacity);
    // The turn: all that the backward sweep reads, less what can wait in memory.
    in += more(weights + stash + sums + states - capacity);
    out += more(stash + sums - capacity);
    // Between two layers a boundary of all the group's rows is written, then read: by the next
    // layer's forward, and as a gradient by the layer below's backward.
    in += 2 * (layers - 2) * more(boundary - capacity);
    out += (layers - 2) * more(boundary - capacity);
  }
  return in + out + (shape.host_update ? gradients : more(weights + optimizer - capacity));
}

}  // namespace headrace::scheduler
