#include "scheduler/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "core/error.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {

namespace {

class Shapes {
 public:
  Shapes(const Workload& workload, const Budgets& budgets)
      : needs_(workload.needs),
        b_(budgets),
        layers_(static_cast<uint32_t>(kv_segments(workload).size())),
        streams_(needs_.kv_layer_block > 0 && layers_ > 1),
        at_(workload.at_a_time) {
    if (at_.empty()) at_.push_back({workload.sequences, needs_.kv_blocks});
    std::sort(at_.begin(), at_.end(),
              [](const AtATime& a, const AtATime& b) { return a.sequences > b.sequences; });
  }

  std::vector<Shape> run() {
    for (const AtATime& at : at_) {
      consider({.at = at});
      for (uint32_t places : places_to_try()) {
        // A layer that is computed, one that is read ahead, and one that is written back.
        for (uint32_t slots : {3u, 2u, 1u}) {
          if (slots <= places && (slots > 1 || places == 1)) {
            consider({.at = at, .streamed = layers_ - (places - slots), .slots = slots});
          }
        }
      }
    }
    if (out_.empty()) refuse();
    std::stable_sort(out_.begin(), out_.end(), [](const Shape& a, const Shape& b) {
      return (a.streamed == 0) > (b.streamed == 0);
    });
    return std::move(out_);
  }

 private:
  Needs needs_of(const Shape& shape) const {
    Needs needs = needs_;
    needs.kv_blocks = shape.at.kv_blocks;
    needs.kv_streamed = shape.streamed;
    needs.kv_slots = shape.slots;
    return needs;
  }

  // Of one layer each; fewer than all layers.
  std::vector<uint32_t> places_to_try() const {
    if (!streams_) return {};
    std::vector<uint32_t> out;
    for (uint32_t eighths : {7, 6, 4, 3, 2, 1}) out.push_back(layers_ * eighths / 8);
    for (uint32_t few : {4, 3, 2, 1}) out.push_back(few);
    if (b_.kv_memory) {  // as many as the cap allows, of each number at a time
      for (const AtATime& at : at_) {
        const Bytes place = std::max<Bytes>(1, needs_.kv_layer_block * at.kv_blocks);
        out.push_back(static_cast<uint32_t>(std::min<Bytes>(*b_.kv_memory / place, layers_)));
      }
    }
    std::erase_if(out, [&](uint32_t places) { return places == 0 || places >= layers_; });
    std::sort(out.rbegin(), out.rend());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  void consider(const Shape& shape) {
    const Needs needs = needs_of(shape);
    const Bytes memory = kv_memory(needs), scratch = kv_scratch(needs);
    least_memory_ = std::min(least_memory_, memory);
    if (memory > b_.kv_memory.value_or(memory)) return;
    least_scratch_ = std::min(least_scratch_, scratch);
    if (scratch > b_.scratch.value_or(scratch)) return;
    out_.push_back(shape);
  }

  [[noreturn]] void refuse() const {
    constexpr Bytes kNothing = std::numeric_limits<Bytes>::max();
    if (least_scratch_ == kNothing) {
      throw Error(
          ErrorCode::kInfeasible,
          fmt::format("--kv-memory {}: keys and values of one layer of one request can come "
                      "to {}; give --kv-memory {} or fewer tokens",
                      format_bytes(*b_.kv_memory), format_bytes(least_memory_), least_memory_))
          .at_field("kv_memory")
          .requiring(least_memory_);
    }
    throw Error(
        ErrorCode::kInfeasible,
        fmt::format("--disk-memory: keys and values that do not fit into --kv-memory take "
                    "{} of the disk ({} bytes), and {} are left of it; give more of either",
                    format_bytes(least_scratch_), least_scratch_, format_bytes(*b_.scratch)))
        .at_field("--disk-memory")
        .requiring(b_.disk_used + least_scratch_);
  }

  const Needs& needs_;
  const Budgets& b_;
  const uint32_t layers_;
  const bool streams_;
  std::vector<AtATime> at_;
  std::vector<Shape> out_;
  Bytes least_memory_ = std::numeric_limits<Bytes>::max();
  Bytes least_scratch_ = std::numeric_limits<Bytes>::max();
};

}  // namespace

std::vector<Shape> shapes_of(const Workload& workload, const Budgets& budgets) {
  return Shapes(workload, budgets).run();
}

void use(Workload& workload, const Shape& shape) {
  Needs& needs = workload.needs;
  needs.kv_blocks = shape.at.kv_blocks;
  needs.requests = shape.at.account;
  needs.kv_streamed = shape.streamed;
  needs.kv_slots = shape.slots;
  workload.sequences = shape.at.sequences;
  if (workload.at_a_time.empty()) return;
  workload.rows_wanted = std::max(shape.at.sequences, workload.rows_prompt);
  workload.outputs_max = workload.all_outputs ? workload.rows_wanted : workload.sequences;
}

}  // namespace headrace::scheduler
