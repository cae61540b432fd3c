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
  Bytes base = 0;          // code, libraries, tokenizer, bookkeeping: declared per build
  Bytes kv_block = 0;      // one block of all layers
  uint32_t kv_blocks = 0;  // blocks that the requests can come to need at once
  Bytes activation_fixed = 0;
  Bytes activation_per_row = 0;     // rows of a pass
  Bytes activation_per_output = 0;  // rows whose logits are wanted
  Bytes workspace = 0;
  Bytes io = 0;  // of the I/O engine itself, buffers excluded
};

struct Budgets {
  Bytes memory = 0;                    // the whole process
  std::optional<Bytes> device_memory;  // a device tier beside the host's; within `memory` on a CPU
  bool device_within_memory = true;
  std::optional<Bytes> kv_memory;  // cap on plan.memory.kv
};

struct Workload {
  std::string model;                  // for people
  std::vector<ObjectSpec> objects;    // ids dense from 0
  std::vector<SegmentSpec> segments;  // in the order of a pass, ids dense from 0
  // [object][chunk] bytes that reading a chunk moves where it lies on disk in another form than in
  // memory; empty: the chunk's own.
  std::vector<std::vector<Bytes>> reads;
  Needs needs;
  bool bf16_products = false;     // which of the machine's product rates holds
  uint32_t sequences = 1;         // decoded together: rows of a steady decode pass
  uint32_t prompt_tokens = 1;     // over all sequences
  uint32_t generated_tokens = 1;  // per sequence
  uint32_t context = 1;           // tokens a row attends to, at the end: for time, not for bytes
  uint32_t rows_wanted = 512;     // most rows of a pass that are any use
  uint32_t outputs_max = 1;       // rows of a pass whose logits are wanted
  std::string numerics;           // what fixes the bits: printed in the plan, not read here

  Bytes read_bytes(ObjectId object, uint32_t chunk) const {
    return reads.empty() ? objects[object].chunks[chunk] : reads[object][chunk];
  }
  Bytes read_bytes(ObjectId object) const {  // of all its chunks
    Bytes sum = 0;
    for (uint32_t c = 0; c < objects[object].chunks.size(); ++c) sum += read_bytes(object, c);
    return sum;
  }
};

struct Choices {  // what the user pinned; all optional
  std::string policy = "auto";
  std::optional<uint32_t> prefetch_depth;  // chunks ahead of the compute; 0: none
};

}  // namespace headrace::scheduler
