// What fits: the order of a pass as a list of chunks, the bytes that must stay, and the choice of
// the chunks that stay beside a ring. Shared by the policies and by expand(); pure, no state.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/policy.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct DenseUse {  // one chunk of a kDense segment, in the order of a pass
  SegmentId segment = kNone;
  ObjectId object = 0;
  uint32_t chunk = 0;
};
std::vector<DenseUse> dense_walk(const Workload& workload);

// By object: flagged so, or read by a router. They stay in the tier that computes, whatever the
// plan.
std::vector<uint8_t> always_resident(const Workload& workload);

struct Item {  // a chunk that may stay or stream
  ObjectId object = 0;
  uint32_t chunk = 0;
  Bytes bytes = 0;
  uint32_t uses = 1;  // of a pass
};

struct SizeClass {            // items of one size
  Bytes each = 0, bytes = 0;  // of one, of all
  uint64_t uses = 0;          // of a pass, of all
};
std::vector<SizeClass> size_classes(std::span<const Item> items);  // smallest first

struct Inventory {
  std::vector<Item> dense;  // what kDense segments walk and need not stay, in order of first use
  std::vector<SizeClass> dense_sizes;
  Bytes fixed = 0;  // stays whatever the plan
  Bytes dense_bytes = 0;
  ObjectId embedding = kNone;  // the object that a kEmbed segment looks up, unless it always stays
  bool tied = false;           // the embedding is also walked as a dense object
  uint32_t embedding_chunks = 0;
  Bytes embedding_bytes = 0, embedding_slot = 0;  // slot: its largest chunk
  std::vector<ObjectId> experts;                  // those that need not stay
  Bytes experts_bytes = 0, expert_slot = 0;       // slot: the largest expert, whole
  Bytes expert_chunk = 0;                         // the largest chunk of an expert
  uint32_t expert_choices = 0;                    // experts per token
  Bytes chunk_max = 0;                            // of everything: what a staging slot must hold
  bool embedding_hole_first = true;               // pools are numbered in the order of holes
  Bytes all() const { return fixed + dense_bytes + (tied ? 0 : embedding_bytes) + experts_bytes; }
};
Inventory take_inventory(const Workload& workload);

// Which of `items`, of those sizes, stay (1) when `room` holds them and a ring of min(ahead,
// streamed) slots of the largest item that streams: as many bytes as fit, spread evenly by bytes,
// so that what streams is read while what stays computes. nullopt below least_room_of(items,
// ahead).
std::optional<std::vector<uint8_t>> keep_spread(std::span<const Item> items,
                                                std::span<const SizeClass> sizes, Bytes room,
                                                uint32_t ahead);
Bytes least_room_of(std::span<const SizeClass> sizes, uint32_t ahead);
// Of a ring that streams all of them.
Bytes ring_of(std::span<const SizeClass> sizes, uint32_t ahead);

// The policies' common parts. `room` is a multiple of kHugePage from here on.
Decision empty_decision(const Workload& workload, const char* policy, uint32_t depth);
Decision all_resident(const Workload& workload, const char* policy, Tier tier, uint32_t depth);
uint32_t depth_of(const Choices& choices);  // pinned, or the default
// Appends to `decision` the slots of the pools that its homes need.
void set_pools(const Inventory& inventory, const Workload& workload, Decision& decision,
               bool has_device, uint32_t embedding_slots, uint32_t expert_slots);
// On the host below a device tier: staging for all that passes through.
Bytes staging_least(const Inventory& inventory, uint32_t ahead);
// Gives a home on the host to what streams and fits there beside the staging.
void keep_on_host(const Inventory& inventory, Bytes host, uint32_t ahead, Decision& decision);

// Gives residents, rings and pools their places in the arenas, and sums them up.
void pack(const Workload& workload, Plan& plan);

}  // namespace headrace::scheduler
