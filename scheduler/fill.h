// What data decided, turned into transfers: given the candidates that a pass wants and what the
// pool holds, which slot each one gets and which must be fetched. Pure: the executor and the replay
// of a recorded run call the same function and get the same bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/forecast.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct PoolState {  // one per pool, made by initial_state()
  struct Entry {
    uint32_t turn = kNone, candidate = kNone;  // kNone: empty
    uint32_t pick = 0;                         // of the call that used it last
    uint64_t call = 0;
    uint64_t last_use = 0;  // a tick; 0: never
  };
  std::vector<Entry> slots;
  std::vector<SegmentId> turns;                // the pool's holes, in the order of a pass
  std::vector<std::vector<uint32_t>> slot_of;  // [turn][candidate]; kNone: not there
  uint64_t tick = 0, calls = 0;
  Forecast forecast;
};

PoolState initial_state(const Plan& plan, const Workload& workload, uint32_t pool);

struct Pick {
  uint32_t candidate = 0;  // expert, or chunk of the embedding
  Slot slot;               // kPool, or kResident when the plan keeps it
  bool fetch = false;      // not there yet
  uint32_t after = kNone;  // the pick whose slot this is, until it has been computed with
};

struct Filled {             // reused from call to call: no allocation once warm
  std::vector<Pick> picks;  // in the order in which they are computed with
  Bytes bytes = 0;          // fetched
  uint64_t operations = 0;  // transfers: chunks
  uint32_t hits = 0;        // picks that were there
};

// `choices` in ascending order of candidates, each once. What is there comes first, in candidate
// order, then fetches: where a pass wants more than the pool has slots, every candidate is still
// fetched once at most, and a slot changes hands when the one before has been computed with.
void fill(const Plan& plan, const Workload& workload, const Hole& hole,
          std::span<const Choice> choices, PoolState& state, Filled& out);

// Bytes of one pass through the hole: whatever the data are, and expected for
// independent choices, experts with the workload's locality, all else uniform.
struct HoleBytes {
  Bytes least = 0, expected = 0, most = 0;
  double picks = 0;  // of a hole: expected distinct ones of candidates that do not stay
};
HoleBytes hole_bytes(const Plan& plan, const Workload& workload, const Hole& hole,
                     const PassRows& pass);
// Of all holes together: what a pool holds when a pass begins it holds for one of them alone.
HoleBytes holes_bytes(const Plan& plan, const Workload& workload, const PassRows& pass);
// Of a steady pass of decoding, by edge and kind: what its tasks move, all its holes, and keys and
// values that stream. `row` is what is expected; its operations leave out what goes through holes.
struct PassRow {
  ByteRow row;
  Bytes least = 0, most = 0;
};
std::vector<PassRow> pass_bytes_by_edge(const Plan& plan, const Workload& workload, uint32_t rows);
HoleBytes pass_bytes(const Plan& plan, const Workload& workload, uint32_t rows);

// The probability that one of `rows` rows picks what each of them picks with probability `share`.
double picked_by(double rows, double share);

// Of a routed hole's candidates those that a pass picks, and of these those that it must fetch.
struct PickShares {
  double picked = 0, missed = 0;
};
// Where they would be `even` if all picks were as likely, and a row picks the share `per_row`: what
// to expect of this model.
PickShares with_locality(const Workload& workload, const PickShares& even, double per_row,
                         uint32_t rows);
// Of the picks at routed experts in a pass of `rows` rows, the share that is there, as expected.
// nullopt: no expert is fetched, or the model has none.
std::optional<double> expected_hit_rate(const Plan& plan, const Workload& workload, uint32_t rows);
// Of the picks at routed experts that do not stay, the share that would be fetched if all were as
// likely: Locality::even. 0: no expert is fetched.
double even_miss_share(const Plan& plan, const Workload& workload, uint32_t rows);

}  // namespace headrace::scheduler
