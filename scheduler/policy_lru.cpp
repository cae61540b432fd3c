// What a least-recently-used cache does with a scan that repeats: it keeps everything when
// everything fits, and otherwise evicts each chunk just before it is wanted again, so that all of
// its memory holds nothing of use. A baseline, built from the same parts: one ring over all the
// room. Experts, whose choice is not a scan, get a share of the room in proportion to their bytes.
#include <algorithm>

#include "scheduler/packing.h"
#include "scheduler/policy_list.h"

namespace headrace::scheduler {

namespace {

Bytes least_in_tier(const Inventory& inventory, uint32_t ahead) {
  return std::min(inventory.all(), inventory.fixed + ring_of(inventory.dense_sizes, ahead) +
                                       inventory.embedding_slot + inventory.expert_slot);
}

uint32_t share_of_experts(const Inventory& inventory, Bytes free) {
  if (inventory.experts.empty()) return 0;
  if (inventory.expert_slot == 0) return 1;
  const double share = static_cast<double>(inventory.experts_bytes) /
                       static_cast<double>(inventory.experts_bytes + inventory.dense_bytes);
  const uint64_t more =
      static_cast<uint64_t>(static_cast<double>(free) * share) / inventory.expert_slot;
  return static_cast<uint32_t>(std::min<uint64_t>(1 + more, inventory.experts.size()));
}

}  // namespace

std::optional<Decision> decide_lru(const Workload& workload, const Inventory& inventory,
                                   const Room& room, const Choices& choices) {
  const uint32_t depth = depth_of(choices);
  const Room least = least_lru(inventory, choices, room.has_device);
  if (room.host < least.host || room.device < least.device) return std::nullopt;
  const Tier tier = room.has_device ? Tier::kDevice : Tier::kHost;
  const Bytes mine = round_down(room.has_device ? room.device : room.host, kHugePage);
  if (inventory.all() <= mine) return all_resident(workload, "lru", tier, depth);

  const Bytes needed = inventory.fixed + ring_of(inventory.dense_sizes, depth + 1) +
                       inventory.embedding_slot + inventory.expert_slot;
  Bytes free = mine - needed;
  const uint32_t expert_slots = share_of_experts(inventory, free);
  if (expert_slots > 1) free -= (expert_slots - 1) * inventory.expert_slot;
  uint32_t embedding_slots = 0;
  if (inventory.embedding != kNone) {
    constexpr uint64_t kSlotsMax = 8;
    const uint64_t fit = inventory.embedding_slot == 0 ? 0 : free / 8 / inventory.embedding_slot;
    embedding_slots =
        static_cast<uint32_t>(std::min<uint64_t>({1 + fit, kSlotsMax, inventory.embedding_chunks}));
    free -= (embedding_slots - 1) * inventory.embedding_slot;
  }
  Decision out = empty_decision(workload, "lru", depth);
  out.evict = Evict::kRecency;
  const Bytes slot = inventory.dense_sizes.empty() ? 0 : inventory.dense_sizes.back().each;
  if (slot > 0) {
    const uint64_t uses = ring_of(inventory.dense_sizes, kNone) / slot;
    const uint64_t slots = (ring_of(inventory.dense_sizes, depth + 1) + free) / slot;
    out.ring_slots = static_cast<uint32_t>(std::min(slots, uses));
  }
  if (room.has_device) {
    // The host's cache sees the same scan: it holds all of it, or nothing of use.
    const Bytes host = round_down(room.host, kHugePage);
    const Bytes pools = inventory.embedding_slot + inventory.expert_chunk;
    if (inventory.dense_bytes + inventory.chunk_max + pools <= host) {
      keep_on_host(inventory, host, depth + 1, out);
    }
  }
  set_pools(inventory, workload, out, room.has_device, embedding_slots, expert_slots);
  return out;
}

Room least_lru(const Inventory& inventory, const Choices& choices, bool has_device) {
  const uint32_t ahead = depth_of(choices) + 1;
  const Bytes least = least_in_tier(inventory, ahead);
  if (!has_device) return {.host = round_up(least, kHugePage)};
  const Bytes staging =
      inventory.all() <= least ? inventory.chunk_max : staging_least(inventory, ahead);
  return {.device = round_up(least, kHugePage),
          .host = round_up(staging, kHugePage),
          .has_device = true};
}

}  // namespace headrace::scheduler
