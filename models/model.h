// A decoder as straight-line calls into the kernel table: what is computed, in terms of segments
// and chunks, and never when, or from where the weights came. All mutable state is passed in.
//
// Protocol of a pass:  begin  embed*  ( forward+ | route experts* combine )*  per segment in order,
// where forward is called for every chunk of every object of the segment, in order, in runs of any
// length. The bits of the result do not depend on the lengths of the runs, nor on which rows share
// the pass.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/spec.h"
#include "core/threads.h"
#include "kernels/table.h"
#include "models/config.h"
#include "models/weights.h"

namespace headrace::models {

struct Context {
  const kernels::Kernels& k;
  ThreadPool& pool;
};

struct Pass {                                      // one batch of rows; M rows, S sequences
  std::span<const int32_t> tokens;                 // [M]
  std::span<const int32_t> positions;              // [M]
  std::span<const uint32_t> sequence;              // [M] index into `sequences`
  std::span<const kernels::SequenceKv> sequences;  // [S]
  // By layer: where its part of a KV block is, from the block's address on; empty: layers follow
  // each other in a block of kv_block_bytes().
  std::span<const Bytes> kv_offsets;
  // [S] tokens that each sequence may grow to, the same in all its passes; empty: it matters not,
  // or all stay within the original length of the rope's scaling. See Decoder::lengths_matter.
  std::span<const uint32_t> lengths;
  std::span<const uint32_t> output_rows;  // rows whose logits are wanted, ascending
  float* logits = nullptr;                // [output_rows, V]
  // In the last layer nobody reads more of a row than its keys and values, unless its logits are
  // wanted: other rows end there, but for those who watch what each row chooses.
  bool every_row = false;
};

struct ExpertData {
  uint32_t expert = 0;
  std::span<const std::byte* const> chunks;  // an address each
};

// Buffers of a pass, carved once out of memory that the caller planned for. Contents are the
// model's own.
struct Activations;
struct Tables;

class Decoder {
 public:
  Decoder(const ModelConfig& config, const WeightLayout& layout);
  ~Decoder();

  const ModelConfig& config() const { return config_; }
  const std::vector<SegmentSpec>& segments() const { return segments_; }

  // Memory for passes of up to `rows` rows and `outputs` wanted rows (logits included).
  Bytes activation_bytes(uint32_t rows, uint32_t outputs) const;  // affine in rows and in outputs
  // Whether the length that a request may reach decides how its first tokens are computed, so that
  // requests of different lengths may not share keys of a common prefix: see `is_long`.
  bool lengths_matter() const { return long_from() != 0; }
  bool is_long(uint64_t length) const { return lengths_matter() && length >= long_from(); }
  Bytes kv_block_bytes() const;  // one block of kKvBlockTokens tokens, all layers
  Bytes kv_layer_bytes() const;  // one layer's part of it, a multiple of kBlock
  DType kv_type() const;
  std::unique_ptr<Activations, void (*)(Activations*)> bind(std::span<std::byte> memory,
                                                            uint32_t rows, uint32_t outputs) const;
  float* logits(Activations& a) const;  // room for outputs * V floats

  // Always-resident objects: where chunk 0 of each is. Before the first pass.
  void bind_resident(ObjectId object, const std::byte* address);

  void begin(Context& c, Activations& a, const Pass& pass) const;
  uint32_t embedding_chunk(
      int32_t token) const;  // which chunk of the embedding object holds its row
  void embed(Context& c, Activations& a, const Pass& pass, uint32_t chunk,
             const std::byte* data) const;
  // Chunks [first, first + data.size()) of `object`, one address each.
  void forward(Context& c, Activations& a, const Pass& pass, SegmentId segment, ObjectId object,
               uint32_t first, std::span<const std::byte* const> data) const;
  // Runs the router of a kRoute segment; experts of each row in rank order, [M, experts_per_token];
  // in the last layer of output rows alone, unless the pass has every row computed.
  std::span<const uint32_t> route(Context& c, Activations& a, const Pass& pass,
                                  SegmentId segment) const;
  // What these experts contribute to the rows that chose them. A pass calls it with any of them,
  // any number at a time, each once; together is faster than one by one.
  void experts(Context& c, Activations& a, const Pass& pass, SegmentId segment,
               std::span<const ExpertData> experts) const;
  void combine(Context& c, Activations& a, const Pass& pass, SegmentId segment) const;

 private:
  uint64_t long_from() const;

  ModelConfig config_;
  const WeightLayout& layout_;
  std::vector<SegmentSpec> segments_;
  std::unique_ptr<Tables> tables_;
};

}  // namespace headrace::models
