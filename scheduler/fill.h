// What data decided, turned into transfers: given the candidates that a pass wants and what the
// pool holds, which slot each one gets and which must be fetched; in waves, if more is wanted than
// the pool holds. Pure: the executor and the replay of a recorded run call the same function and
// get the same bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct PoolState {  // one per pool, made by initial_state()
  struct Entry {
    uint64_t key =
        ~uint64_t{0};  // object << 32 | chunk (chunk kNone: the whole object); all ones: empty
    uint64_t last_use = 0;
  };
  std::vector<Entry> slots;
  uint64_t tick = 0;
};

PoolState initial_state(const Pool& pool);

struct Pick {
  uint32_t candidate = 0;  // expert, or chunk of the embedding
  Slot slot;               // kPool, or kResident when the plan keeps it
  bool fetch = false;      // not there yet
};

struct Filled {             // reused from call to call: no allocation once warm
  std::vector<Pick> picks;  // those of wave w are [wave_end[w-1], wave_end[w])
  std::vector<uint32_t> wave_end;
  Bytes bytes = 0;          // fetched
  uint64_t operations = 0;  // transfers: chunks
};

// `choices`: distinct candidates in ascending order. Hits come first within a wave, in candidate
// order, then fetches. A slot wanted by the wave is never given away within it.
void fill(const Plan& plan, const Workload& workload, const Hole& hole,
          std::span<const uint32_t> choices, PoolState& state, Filled& out);

// Bytes of one pass through the hole with `rows` rows: whatever the data are, and expected for
// uniform, independent choices.
struct HoleBytes {
  Bytes least = 0, expected = 0, most = 0;
};
HoleBytes hole_bytes(const Plan& plan, const Workload& workload, const Hole& hole, uint32_t rows);
// Of a steady pass: what its tasks move, and all its holes.
HoleBytes pass_bytes(const Plan& plan, const Workload& workload, uint32_t rows);

}  // namespace headrace::scheduler
