// A plan's text: what parses prints back to what parses to the same text, and the verifier, which
// sees every plan before it is run, answers for any of them without reading out of bounds.
#include <algorithm>

#include "scheduler/packing.h"
#include "scheduler/plan.h"
#include "scheduler/policy.h"
#include "scheduler/search.h"
#include "scheduler/verify.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

ObjectSpec object(ObjectId id, std::vector<Bytes> blocks, bool always = false) {
  ObjectSpec out{.id = id, .name = "object", .always_resident = always};
  for (Bytes b : blocks) out.chunks.push_back(b * kBlock);
  return out;
}

scheduler::Workload make_workload() {
  scheduler::Workload w;
  w.objects = {object(0, {3, 3, 1}), object(1, {1}, true), object(2, {2, 2, 2, 2}),
               object(3, {2, 1}),    object(4, {2, 1}),    object(5, {4, 4})};
  w.segments.resize(5);
  w.segments[0] = {.kind = SegmentKind::kEmbed, .candidates = {0}, .choices_per_row = 1};
  w.segments[1] = {.kind = SegmentKind::kDense, .weights = {2}};
  w.segments[2] = {.kind = SegmentKind::kRoute, .weights = {1}};
  w.segments[3] = {.kind = SegmentKind::kExperts, .candidates = {3, 4}, .choices_per_row = 1};
  w.segments[4] = {.kind = SegmentKind::kDense, .weights = {5, 0}};
  for (SegmentId id = 0; id < w.segments.size(); ++id) w.segments[id].id = id;
  return w;
}

const scheduler::Workload& workload() {
  static const scheduler::Workload w = make_workload();
  return w;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> out;
  const scheduler::Inventory inventory = scheduler::take_inventory(workload());
  for (const scheduler::Policy& policy : scheduler::policies()) {
    for (bool device : {false, true}) {
      const scheduler::Choices choices{.prefetch_depth = 1};
      const scheduler::Room room = policy.least_room(inventory, choices, device);
      scheduler::Decision d = *policy.decide(workload(), inventory, room, choices);
      // The least room holds this small model: homes are taken back so that the plan has streams.
      for (auto& homes : d.home) std::fill(homes.begin(), homes.end(), scheduler::Home::kDisk);
      d.pool_slots = {1, 1};
      const scheduler::Room wide{64 * kMiB, 64 * kMiB, device};
      out.push_back(scheduler::print_plan(scheduler::expand(workload(), d, wide)));
    }
  }
  return out;
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headrace;
  try {
    const scheduler::Plan plan = scheduler::parse_plan(fuzz::text_of(data, size), "fuzz");
    const std::string text = scheduler::print_plan(plan);
    FUZZ_CHECK(scheduler::print_plan(scheduler::parse_plan(text, "printed")) == text);
    if (scheduler::violations(plan, fuzz::workload()).empty()) {
      // What is valid can be counted.
      scheduler::bytes_of(plan.enter);
      scheduler::bytes_of(plan.steady);
    }
  } catch (const Error&) {
  }
  return 0;
}
