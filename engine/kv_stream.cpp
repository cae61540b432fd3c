#include "engine/kv_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/checked.h"
#include "core/error.h"
#include "kernels/args.h"

namespace headrace::engine {

namespace {

void convert(const std::vector<Range>& from, std::vector<swap::BlockRun>& to) {
  to.clear();
  for (const Range& run : from) to.push_back({run.begin, run.size()});
}

}  // namespace

// Rows of a sequence are neighbours in a pass, its tokens in order.
void mark_kv(const models::Pass& pass, const std::byte* memory, Bytes block_bytes,
             scheduler::KvMoves& moves) {
  moves.clear();
  const size_t rows = pass.tokens.size();
  for (size_t begin = 0, end = 0; begin < rows; begin = end) {
    while (end < rows && pass.sequence[end] == pass.sequence[begin]) ++end;
    const auto first = static_cast<uint64_t>(pass.positions[begin]);
    HEADRACE_ASSERT(static_cast<uint64_t>(pass.positions[end - 1]) + 1 == first + (end - begin));
    std::byte* const* blocks = pass.sequences[pass.sequence[begin]].blocks;
    moves.add_rows(first, first + (end - begin), kernels::kKvBlockTokens, [&](uint64_t i) {
      return static_cast<uint32_t>(static_cast<Bytes>(blocks[i] - memory) / block_bytes);
    });
  }
  moves.close();
}

std::unique_ptr<swap::Scratch> make_scratch(const scheduler::Plan& plan,
                                            const scheduler::Budgets& budgets,
                                            const std::string& folder) {
  if (plan.kv.streamed.empty()) return nullptr;
  const swap::ScratchShape shape{.arrays = static_cast<uint32_t>(plan.kv.streamed.size()),
                                 .blocks = plan.kv_blocks,
                                 .block_bytes = plan.kv.block_bytes};
  const Bytes bytes = shape.bytes().value_or(~Bytes{0});
  if (budgets.scratch && bytes > *budgets.scratch) {
    throw Error(ErrorCode::kInfeasible,
                fmt::format("--disk-memory: the plan keeps {} of keys and values on disk, beside "
                            "the store of {}; give more",
                            format_bytes(bytes), format_bytes(budgets.disk_used)))
        .at_field("--disk-memory")
        .requiring(checked_add(bytes, budgets.disk_used).value_or(bytes));
  }
  std::filesystem::create_directories(folder);
  return std::make_unique<swap::Scratch>(folder, shape);
}

KvStream::KvStream(const scheduler::Plan& plan, const scheduler::Workload& workload,
                   std::byte* memory)
    : plan_(plan), memory_(memory) {
  if (plan.kv.block_bytes == 0) return;
  uint32_t layers = 0;
  for (SegmentId id : scheduler::kv_segments(workload)) {
    layers_.push_back(workload.segments[id].layer);
  }
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.layer != kNone) layers = std::max(layers, segment.layer + 1);
  }
  offsets_.resize(layers);
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    offsets_[layers_[i]] = scheduler::kv_place(plan.kv, i, 0) * place_bytes();
  }
  if (plan.kv.streamed.empty()) return;
  group_of_.resize(plan.kv.streamed.size());
  for (const scheduler::KvGroup& group : scheduler::kv_groups(plan, workload)) {
    for (uint32_t index : group.members) group_of_[index] = static_cast<uint32_t>(groups_.size());
    Group& made = groups_.emplace_back();
    made.moves = scheduler::KvMoves(plan.kv_blocks, group.window);
    for (Runs& runs : made.runs) {
      runs.reads.reserve(plan.kv_blocks / 2 + 1);
      runs.writes.reserve(plan.kv_blocks / 2 + 1);
    }
  }
}

void KvStream::begin(const models::Pass& pass, int64_t round) {
  if (plan_.kv.streamed.empty()) return;
  for (Group& group : groups_) {
    mark_kv(pass, memory_, plan_.kv.block_bytes, group.moves);
    Runs& runs = group.runs[static_cast<size_t>(round) % 2];
    convert(group.moves.reads(), runs.reads);
    convert(group.moves.writes(), runs.writes);
  }
  for (uint32_t layer : plan_.kv.streamed) {
    offsets_[layers_[layer]] = scheduler::kv_place(plan_.kv, layer, round) * place_bytes();
  }
}

std::optional<swap::Transfer> KvStream::transfer(const scheduler::Task& task, int64_t round) const {
  const bool reads = task.kind == scheduler::TaskKind::kKvRead;
  const uint32_t index = reads ? task.to.index : task.from.index;
  const Runs& runs = groups_[group_of_[index]].runs[static_cast<size_t>(round) % 2];
  const std::span<const swap::BlockRun> blocks = reads ? runs.reads : runs.writes;
  if (blocks.empty()) return std::nullopt;
  const uint32_t place = scheduler::kv_place(plan_.kv, plan_.kv.streamed[index], round);
  return swap::Transfer{.object = index,
                        .kind = Kind::kKv,
                        .edge = task.edge,
                        .target = memory_ + place * place_bytes(),
                        .blocks = blocks};
}

}  // namespace headrace::engine
