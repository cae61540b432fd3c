// A plan is data: which bytes move where and when, and what is computed on them. The executor runs
// it, the simulator times it, the verifier checks it, the profiler compares it with what happened;
// none of them decides anything.
//
// A plan for generation has an `enter` round (once: loads what stays and fills the rings) and a
// `steady` round, one pass over the model, that repeats with the residency it began with, transfers
// in flight included: streams run on across passes. Rows are bound to a pass late; a pass of one
// decoded token and one of a whole prompt chunk are the same round.
//
// The one rule of order, for simulator and executor alike: a task starts when it heads its lane
// (tasks of a lane run in the order of the list, enter's before steady's) and its edges are done.
// Data edges are in `after` like all others, but for one kind: what reads a resident waits in the
// first pass until enter has loaded it. So the first pass computes while the model loads. An edge
// to the round before the first steady one means enter's transfer of the same chunk to the same
// position of the same ring (scheduler/enter.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/spec.h"
#include "core/tier.h"

namespace headrace::scheduler {

inline constexpr uint32_t kPlanVersion = 1;

enum class TaskKind : uint8_t {
  kFetch,    // disk to memory: lane kDiskRead
  kCopy,     // host to device: lane kHostToDevice
  kEmbed,    // rows of the embedding, through a hole
  kForward,  // a segment's product with a run of chunks of one object
  kRoute,    // a router
  kExperts,  // routed experts, through a hole
  kKvRead,   // keys and values of a layer, disk to memory: lane kDiskRead
  kKvWrite,  // memory to disk: lane kDiskWrite
};
enum class Lane : uint8_t {
  kCompute,
  kDiskRead,
  kDiskWrite,
  kHostToDevice,
  kDeviceToHost,
  kUpdate,
  kLink
};
inline constexpr size_t kLanes = 7;

enum class Space : uint8_t {
  kNone,
  kResident,  // index: into Plan::residents
  kRing,      // area: into Plan::rings; index: see Ring
  kPool,      // area: into Plan::pools; the slot is decided by fill()
  kStore,     // on disk
  kKv,        // index: which of the layers that stream their keys and values; see KvStream
};

struct Slot {
  Space space = Space::kNone;
  uint32_t area = 0;
  uint32_t index = 0;
  bool operator==(const Slot&) const = default;
};

struct TaskRef {  // round 0: the same round; -1: the round before (of the first steady round:
                  // enter)
  uint32_t task = 0;
  int32_t round = 0;
  bool operator==(const TaskRef&) const = default;
};

struct Use {  // one chunk that a compute task reads, and where
  ObjectId object = 0;
  uint32_t chunk = 0;
  Slot slot;
};

struct Task {
  TaskKind kind = TaskKind::kForward;
  Lane lane = Lane::kCompute;
  SegmentId segment = kNone;  // compute
  uint32_t hole = kNone;      // kEmbed, kExperts: into Plan::holes
  Range uses;                 // compute: into Round::uses, consecutive chunks of one object
  Range after;                // into Round::after
  ObjectId object = kNone;    // transfers
  uint32_t chunk = 0;
  Slot from, to;
  Bytes bytes = 0;
  Edge edge{Tier::kDisk, Tier::kHost};  // what the ledger counts
  bool counted = true;                  // false: the staging half of disk->device
};

enum class RoundKind : uint8_t { kEnter, kSteady };

struct Round {
  RoundKind kind = RoundKind::kSteady;
  std::vector<Task> tasks;
  std::vector<Use> uses;
  std::vector<TaskRef> after;
};

struct Resident {  // a chunk that stays
  ObjectId object = 0;
  uint32_t chunk = 0;
  Tier tier = Tier::kHost;
  Bytes offset = 0;  // in that tier's arena
};

// Slots that transfers of a stream use in turn. In steady round r (from 0) a Slot{kRing, area, i}
// is slot (i + r * step) % slots; in the enter round it is slot i % slots.
struct Ring {
  Tier tier = Tier::kHost;
  uint32_t slots = 0;
  uint32_t step = 0;  // transfers into the ring per steady round
  Bytes slot_bytes = 0;
  Bytes offset = 0;  // in the tier's arena
};

// Which candidate gives up its slot: the least recently wanted, or the one that is expected to be
// wanted last (scheduler/forecast.h).
enum class Evict : uint8_t { kRecency, kForecast };

// Slots whose content data decide: a cache of whole candidates (an expert; a chunk of the
// embedding).
struct Pool {
  Tier tier = Tier::kHost;
  uint32_t slots = 0;
  Bytes slot_bytes = 0;  // of the largest candidate
  Bytes offset = 0;
  uint32_t staging = kNone;  // ring on the host that fetches pass through, where tier is the device
  Evict evict = Evict::kForecast;
};

enum class Source : uint8_t { kTokens, kRouter };

struct Hole {  // what only data decide
  SegmentId segment = kNone;
  Source source = Source::kTokens;
  uint32_t pool = kNone;  // kNone: every candidate is resident
  uint32_t choices_per_row = 1;
};

// Keys and values of layers that do not stay: the i-th of them is in slot (i + r * streamed) %
// slots of a ring in steady round r. What moves follows from the positions of a pass
// (scheduler/kv.h).
struct KvStream {
  uint32_t layers = 0;             // that have keys and values
  Bytes block_bytes = 0;           // of one layer in a block
  uint32_t slots = 0;              // of the ring, each of kv_blocks blocks; 0: every layer stays
  std::vector<uint32_t> streamed;  // layers, ascending
  bool operator==(const KvStream&) const = default;
};

struct ByteRow {  // of one round, or of a run
  Edge edge;
  Kind kind = Kind::kWeights;
  Bytes bytes = 0;
  uint64_t operations = 0;  // transfers
  bool operator==(const ByteRow&) const = default;
};

struct MemorySplit {  // sums to the budget
  Bytes base = 0, resident_weights = 0, stream_ring = 0, kv = 0, activations = 0, gradients = 0,
        optimizer = 0, workspace = 0, io = 0, slack = 0;
  Bytes total() const {
    return base + resident_weights + stream_ring + kv + activations + gradients + optimizer +
           workspace + io + slack;
  }
};

struct Alternative {  // a plan that lost
  std::string policy;
  uint32_t prefetch_depth = 0, rows_max = 0;
  Bytes bytes = 0;  // of a steady pass
  double predicted_s = 0;
  std::string why;           // why it lost, or why it cannot be
  Bytes required_bytes = 0;  // when it does not fit
};

struct Plan {
  uint32_t version = kPlanVersion;
  std::string model, policy, numerics;
  uint64_t machine_hash = 0;
  uint64_t workload_hash =
      0;  // of objects and segments: a plan runs only on the model it was made for
  Bytes budget = 0;
  Bytes weights_bytes = 0;
  MemorySplit memory;
  Bytes arena_bytes[2] = {0, 0};  // device, host: residents, rings and pools
  uint32_t prefetch_depth = 0;
  uint32_t rows_max = 1;  // rows of a pass
  uint32_t outputs_max = 1;
  uint32_t kv_blocks = 0;
  KvStream kv;
  uint32_t sequences = 1;  // rows of the decode pass that predicted_s is of

  std::vector<Resident> residents;
  std::vector<Ring> rings;
  std::vector<Pool> pools;
  std::vector<Hole> holes;
  Round enter, steady;

  Bytes bytes = 0;  // of one steady decode pass, holes at their expectation
  Bytes bytes_least = 0, bytes_most = 0;
  Bytes bound_bytes = 0;   // no schedule within the budget moves less in a steady decode pass
  double predicted_s = 0;  // of one steady decode pass
  std::string why;         // what binds
  std::vector<Alternative> alternatives;
};

// Bytes by (edge, kind) of one run of a round, holes left out.
std::vector<ByteRow> bytes_of(const Round& round);

// The slot in its ring that `slot` means in steady round `round` (enter: round < 0).
uint32_t ring_slot(const Ring& ring, const Slot& slot, int64_t round);

// Text, one line an item, that parses back to an equal plan (docs/format/plan.md). parse_plan
// throws Error(kFormat) naming `what` and the line; a plan is hostile until parsed and verified.
std::string print_plan(const Plan& plan);
Plan parse_plan(std::string_view text, std::string_view what);

}  // namespace headrace::scheduler
