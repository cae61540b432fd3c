// What a hole offers, and which of it stays: shared by fill.cpp and fill_bytes.cpp.
#pragma once

#include <algorithm>

#include "scheduler/plan.h"
#include "scheduler/workload.h"

namespace headrace::scheduler {

struct Candidates {  // of a hole: experts, or chunks of the embedding
  const Workload& workload;
  const SegmentSpec& segment;
  bool rows() const { return segment.kind == SegmentKind::kEmbed; }
  uint32_t count() const {
    return static_cast<uint32_t>(rows() ? workload.objects[segment.candidates[0]].chunks.size()
                                        : segment.candidates.size());
  }
  ObjectId object(uint32_t candidate) const { return segment.candidates[rows() ? 0 : candidate]; }
  Bytes bytes(uint32_t candidate) const {  // that reading it moves
    const ObjectId id = object(candidate);
    return rows() ? workload.read_bytes(id, candidate) : workload.read_bytes(id);
  }
  uint64_t chunks(uint32_t candidate) const {
    return rows() ? 1 : workload.objects[object(candidate)].chunks.size();
  }
};

// Where the candidate stays whole in `tier`: its first chunk's place in plan.residents; kNone: it
// does not. Residents are sorted by tier, object and chunk, the computing tier first.
uint32_t find_resident(const Plan& plan, const Candidates& all, uint32_t candidate, Tier tier);

inline Tier computing_tier(const Plan& plan) {
  return plan.arena_bytes[0] > 0 ? Tier::kDevice : Tier::kHost;
}

// Fetches that may be under way at once: a candidate's slot is not taken again before as many more
// have been picked.
uint32_t fetches_ahead(const Pool& pool, const Hole& hole);

}  // namespace headrace::scheduler
