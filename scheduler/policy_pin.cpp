// As much stays as fits. On a cyclic scan every chunk is worth the same per byte, so the choice is
// by layout: what streams is spread evenly over the pass, and reading it hides behind computing
// with what stays. Dense chunks go first, for they are used in every pass; then routed experts, of
// which a pass uses a few.
#include <algorithm>

#include "scheduler/packing.h"
#include "scheduler/policy_list.h"

namespace headrace::scheduler {

namespace {

uint64_t slots_of(Bytes room, Bytes slot) { return slot == 0 ? 0 : room / slot; }

// The embedding's pool: a slot for each sequence's token, 8 to 32, at most an eighth of what is
// free; 1 where memory is that short.
uint32_t embedding_slots(const Inventory& inventory, uint32_t sequences, Bytes free) {
  if (inventory.embedding == kNone) return 0;
  const uint64_t wanted = std::min(inventory.embedding_chunks, std::clamp(sequences, 8u, 32u));
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(slots_of(free / 8, inventory.embedding_slot), 1, wanted));
}

// Puts as many as fit of the chunks of an embedding that is not also the head, from the first on.
Bytes keep_embedding(const Workload& workload, const Inventory& inventory, Home home, Bytes room,
                     Decision& decision) {
  if (inventory.embedding == kNone || inventory.tied) return room;
  const std::vector<Bytes>& chunks = workload.objects[inventory.embedding].chunks;
  for (size_t c = 0; c < chunks.size() && chunks[c] <= room; ++c) {
    decision.home[inventory.embedding][c] = home;
    room -= chunks[c];
  }
  return room;
}

// Fills the computing tier. nullopt below the least.
std::optional<Decision> keep_in(const Workload& workload, const Inventory& inventory, Bytes room,
                                bool has_device, const char* name, uint32_t depth) {
  const Tier tier = has_device ? Tier::kDevice : Tier::kHost;
  const Home home = has_device ? Home::kDevice : Home::kHost;
  if (inventory.all() <= room) return all_resident(workload, name, tier, depth);
  const Bytes least = inventory.fixed + least_room_of(inventory.dense_sizes, depth + 1) +
                      inventory.embedding_slot + inventory.expert_slot;
  if (least > room) return std::nullopt;
  Bytes free = room - least;  // beyond the least of every part
  uint32_t expert_slots = inventory.experts.empty() ? 0 : 1;
  if (expert_slots != 0) {
    // Enough for one token's experts to be fetched at once.
    const uint64_t most =
        std::clamp<uint64_t>(inventory.expert_choices, 1, inventory.experts.size());
    const uint64_t more = std::min<uint64_t>(slots_of(free, inventory.expert_slot), most - 1);
    expert_slots += static_cast<uint32_t>(more);
    free -= more * inventory.expert_slot;
  }
  const uint32_t rows = embedding_slots(inventory, workload.sequences, free);
  if (rows > 1) free -= (rows - 1) * inventory.embedding_slot;

  const Bytes dense_room = least_room_of(inventory.dense_sizes, depth + 1) + free;
  const auto keep = keep_spread(inventory.dense, inventory.dense_sizes, dense_room, depth + 1);
  if (!keep) return std::nullopt;
  Decision out = empty_decision(workload, name, depth);
  Bytes kept = 0;
  for (size_t i = 0; i < keep->size(); ++i) {
    const Item& item = inventory.dense[i];
    if (!(*keep)[i]) continue;
    out.home[item.object][item.chunk] = home;
    kept += item.bytes;
  }
  if (kept == inventory.dense_bytes) {  // no ring: the rest is for what data decide
    Bytes left = dense_room - kept;
    const uint64_t more = std::min<uint64_t>(slots_of(left, inventory.expert_slot),
                                             inventory.experts.size() - expert_slots);
    expert_slots += static_cast<uint32_t>(more);
    left -= more * inventory.expert_slot;
    keep_embedding(workload, inventory, home, left, out);
  }
  set_pools(inventory, workload, out, has_device, rows, expert_slots);
  return out;
}

std::optional<Decision> decide(const Workload& workload, const Inventory& inventory,
                               const Room& room, const char* name, uint32_t depth) {
  const Bytes host = round_down(room.host, kHugePage);
  if (!room.has_device) return keep_in(workload, inventory, host, false, name, depth);
  const Bytes device = round_down(room.device, kHugePage);
  Choices choices;
  choices.prefetch_depth = depth;
  if (host < least_pin(inventory, choices, true).host) return std::nullopt;
  std::optional<Decision> out = keep_in(workload, inventory, device, true, name, depth);
  if (out && inventory.all() > device) keep_on_host(inventory, host, depth + 1, *out);
  return out;
}

}  // namespace

std::optional<Decision> decide_pin(const Workload& workload, const Inventory& inventory,
                                   const Room& room, const Choices& choices) {
  return decide(workload, inventory, room, "pin", depth_of(choices));
}

Room least_pin(const Inventory& inventory, const Choices& choices, bool has_device) {
  const uint32_t ahead = depth_of(choices) + 1;
  const Bytes streaming = inventory.fixed + least_room_of(inventory.dense_sizes, ahead) +
                          inventory.embedding_slot + inventory.expert_slot;
  const Bytes all = inventory.all();
  if (!has_device) return {.host = round_up(std::min(all, streaming), kHugePage)};
  const Bytes staging = all <= streaming ? inventory.chunk_max : staging_least(inventory, ahead);
  return {.device = round_up(std::min(all, streaming), kHugePage),
          .host = round_up(staging, kHugePage),
          .has_device = true};
}

std::optional<Decision> decide_sync(const Workload& workload, const Inventory& inventory,
                                    const Room& room, const Choices&) {
  return decide(workload, inventory, room, "sync", 0);
}

Room least_sync(const Inventory& inventory, const Choices& choices, bool has_device) {
  Choices none = choices;
  none.prefetch_depth = 0;
  return least_pin(inventory, none, has_device);
}

}  // namespace headrace::scheduler
