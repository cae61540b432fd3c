// The visible list of policies. A policy is a pure function that says, for given budgets, what
// stays where and how deep the streams are; expand() turns that decision into tasks and slots.
// Adding one: docs/adding_a_policy.md.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

enum class Home : uint8_t { kDevice, kHost, kDisk };  // where a chunk is at the start of a pass

struct Decision {
  std::string policy;
  uint32_t rows_max = 1;
  uint32_t depth = 0;                   // chunks fetched ahead: the ring has depth + 1 slots
  uint32_t ring_slots = 0;              // of the computing tier's ring, where it has more than that
  std::vector<std::vector<Home>> home;  // [object][chunk]
  std::vector<uint32_t> pool_slots;     // per pool, in the order of holes' pools
  Evict evict = Evict::kForecast;       // of the pools
};

struct Room {                  // what the decision may use, per tier, after everything else
  Bytes device = 0, host = 0;  // two tiers: device is 0 and host is all
  bool has_device = false;
};

struct Inventory;  // scheduler/packing.h

struct Policy {
  const char* name;
  const char* summary;
  // The inventory is the workload's: a search takes it once. nullopt when it does not fit into
  // `room`.
  std::optional<Decision> (*decide)(const Workload&, const Inventory&, const Room&, const Choices&);
  // decide succeeds exactly when `room` holds at least this much in each tier, arenas rounded up to
  // kHugePage.
  Room (*least_room)(const Inventory&, const Choices&, bool has_device);
};

std::span<const Policy> policies();  // stream, pin, lru, sync
const Policy* find_policy(std::string_view name);

// Slots, rings, pools, holes and both rounds of a decision. Pure; the result passes verify().
Plan expand(const Workload& workload, const Decision& decision, const Room& room);

}  // namespace headrace::scheduler
