// What is asked for: the model as objects and segments, the rows of a pass, and the budgets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/spec.h"
#include "core/tier.h"

namespace headrace::scheduler {

// Memory that a run takes besides weights, as functions of choices the search makes.
struct Needs {
  Bytes base = 0;            // code, libraries, tokenizer, bookkeeping: declared per build
  Bytes requests = 0;        // to keep account of the requests that run at a time
  Bytes kv_block = 0;        // one block of all layers
  Bytes kv_layer_block = 0;  // of one layer; 0: keys and values of all layers stay
  uint32_t kv_block_tokens = 32;
  // Tokens that a row attends to, itself included, by layer with keys and values; 0: all before it.
  // Empty: that holds for every layer.
  std::vector<uint32_t> kv_windows;
  uint32_t kv_streamed = 0, kv_slots = 0;  // layers that stream, through a ring of so many slots
  uint32_t kv_blocks = 0;                  // blocks that the requests can come to need at once
  Bytes activation_fixed = 0;
  Bytes activation_per_row = 0;     // rows of a pass
  Bytes activation_per_output = 0;  // rows whose logits are wanted
  Bytes workspace = 0;
  Bytes io = 0;  // of the I/O engine itself, buffers excluded
};

// What runs at a time, of all requests: how many, and the blocks that the largest so many come to.
struct AtATime {
  uint32_t sequences = 1;
  uint32_t kv_blocks = 0;
  Bytes account = 0;  // of the process, to keep account of them
};

// How picks of routed experts favour and repeat each other in passes of `rows` rows: a pool that
// would miss the share `even` of picks that are all as likely misses `missed` of these.
struct Locality {
  uint32_t rows = 1;
  double even = 0.5, missed = 0.5;  // between 0 and 1
  double picked = 0;  // of a hole's candidates, how many such a pass picks; 0: as of even picks
  double doubt = 0;   // 0: this model was seen to do so; more: others are likelier to tell
};

struct Budgets {
  Bytes memory = 0;                    // the whole process
  std::optional<Bytes> device_memory;  // a device tier beside the host's; within `memory` on a CPU
  bool device_within_memory = true;
  std::optional<Bytes> kv_memory;  // cap on plan.memory.kv
  std::optional<Bytes> scratch;    // cap on keys and values on disk
  Bytes disk_used = 0;             // besides, by the store: what --disk-memory must cover too
};

struct Workload {
  std::string model;                  // for people
  std::vector<ObjectSpec> objects;    // ids dense from 0
  std::vector<SegmentSpec> segments;  // in the order of a pass, ids dense from 0
  // [object][chunk] bytes that reading a chunk moves where it lies on disk in another form than in
  // memory; empty: the chunk's own.
  std::vector<std::vector<Bytes>> reads;
  Needs needs;
  bool bf16_products = false;  // which of the machine's product rates holds
  uint32_t sequences = 1;      // decoded together: rows of a steady decode pass
  uint32_t requests = 0;       // in all, in turns of `sequences`; 0: no more than those
  std::vector<AtATime>
      at_a_time;                  // what the search may choose for `sequences`; empty: nothing else
  uint32_t prompt_tokens = 1;     // over all sequences
  uint32_t generated_tokens = 1;  // per sequence
  uint32_t context = 1;           // tokens a row attends to, midway: for what is expected
  uint32_t rows_wanted = 512;     // most rows of a pass that are any use
  uint32_t outputs_max = 1;       // rows of a pass whose logits are wanted
  uint32_t rows_prompt = 1;       // with at_a_time: rows_wanted is this, or a row a sequence
  bool all_outputs = false;       // those of every row
  std::vector<Locality> localities;  // the nearest one counts; none: picks are all as likely
  std::string numerics;              // what fixes the bits: printed in the plan, not read here

  Bytes read_bytes(ObjectId object, uint32_t chunk) const {
    return reads.empty() ? objects[object].chunks[chunk] : reads[object][chunk];
  }
  Bytes read_bytes(ObjectId object) const {  // of all its chunks
    Bytes sum = 0;
    for (uint32_t c = 0; c < objects[object].chunks.size(); ++c) sum += read_bytes(object, c);
    return sum;
  }
};

// The rows of one pass.
struct PassRows {
  uint32_t rows = 1;
  uint32_t context = 1;    // tokens that each attends to
  uint32_t outputs = 1;    // rows whose logits are wanted
  uint32_t sequences = 0;  // that the rows belong to; 0: one each

  uint32_t at(const SegmentSpec& segment) const { return segment.per_output ? outputs : rows; }
  bool operator==(const PassRows&) const = default;
};
// Every row is the next token of a request of its own.
inline PassRows decoding(uint32_t rows) { return {.rows = rows, .outputs = rows}; }

struct Choices {  // what the user pinned; all optional
  std::string policy = "auto";
  std::optional<uint32_t> prefetch_depth;  // chunks ahead of the compute; 0: none
};

}  // namespace headrace::scheduler
