// Nothing stays in the computing tier but what must: weights pass through a ring, pools hold one
// token's needs. Right where memory is wanted for something else: rows of a pass, above all. With a
// device tier, the host's memory holds what it can and the device holds the ring.
#include <algorithm>

#include "scheduler/packing.h"
#include "scheduler/policy_list.h"

namespace headrace::scheduler {

namespace {

Bytes least_in_tier(const Inventory& inventory, uint32_t ahead) {
  return inventory.fixed + ring_of(inventory.dense_sizes, ahead) + inventory.embedding_slot +
         inventory.expert_slot;
}

}  // namespace

std::optional<Decision> decide_stream(const Workload& workload, const Inventory& inventory,
                                      const Room& room, const Choices& choices) {
  const uint32_t ahead = depth_of(choices) + 1;
  const Room least = least_stream(inventory, choices, room.has_device);
  if (room.host < least.host || room.device < least.device) return std::nullopt;
  const Bytes host = round_down(room.host, kHugePage);
  Bytes free = (room.has_device ? round_down(room.device, kHugePage) : host) -
               least_in_tier(inventory, ahead);
  uint32_t expert_slots = 0, embedding_slots = 0;
  if (!inventory.experts.empty()) {
    const uint64_t more = std::min<uint64_t>(
        inventory.expert_slot == 0 ? 0 : free / inventory.expert_slot,
        std::min<uint64_t>(inventory.experts.size(), std::max(inventory.expert_choices, 1u)) - 1);
    expert_slots = 1 + static_cast<uint32_t>(more);
    free -= more * inventory.expert_slot;
  }
  if (inventory.embedding != kNone) {
    constexpr uint64_t kSlotsMax = 4;
    embedding_slots = 1 + static_cast<uint32_t>(std::min<uint64_t>(
                              inventory.embedding_slot == 0 ? 0 : free / inventory.embedding_slot,
                              std::min<uint64_t>(inventory.embedding_chunks, kSlotsMax) - 1));
  }
  Decision out = empty_decision(workload, "stream", depth_of(choices));
  if (room.has_device) keep_on_host(inventory, host, ahead, out);
  set_pools(inventory, workload, out, room.has_device, embedding_slots, expert_slots);
  return out;
}

Room least_stream(const Inventory& inventory, const Choices& choices, bool has_device) {
  const uint32_t ahead = depth_of(choices) + 1;
  const Bytes least = round_up(least_in_tier(inventory, ahead), kHugePage);
  if (!has_device) return {.host = least};
  return {.device = least,
          .host = round_up(staging_least(inventory, ahead), kHugePage),
          .has_device = true};
}

}  // namespace headrace::scheduler
