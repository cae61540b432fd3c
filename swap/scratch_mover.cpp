#include "swap/scratch_mover.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "swap/cpu_time.h"

namespace headrace::swap {
namespace {

constexpr Bytes kPieceBytes = 1 * kMiB;  // of a long run: what a reader sends as one request

}  // namespace

ScratchMover::ScratchMover(Scratch& scratch, uint32_t file, uint32_t first_id, uint32_t tickets_max)
    : scratch_(scratch),
      file_(file),
      first_id_(first_id),
      piece_blocks_(
          static_cast<uint32_t>(std::max<Bytes>(1, kPieceBytes / scratch.shape().block_bytes))),
      moves_(tickets_max),
      queue_(tickets_max),
      pieces_(kPieces) {
  for (uint32_t i = kPieces; i > 0; --i) free_.push_back(i - 1);
}

void ScratchMover::add(Ticket ticket, const Transfer& transfer) {
  HEADRACE_ASSERT(queued_ < queue_.size() && transfer.source == nullptr);
  for (const BlockRun& run : transfer.blocks) {
    HEADRACE_ASSERT(run.count > 0 && uint64_t{run.first} + run.count <= scratch_.shape().blocks);
  }
  moves_[ticket] = {.what = transfer, .result = {.id = ticket}};
  queue_[(head_ + queued_++) % queue_.size()] = ticket;
}

Bytes ScratchMover::bytes_of(const Transfer& transfer) const {
  uint64_t blocks = 0;
  for (const BlockRun& run : transfer.blocks) blocks += run.count;
  return blocks * scratch_.shape().block_bytes;
}

std::span<std::byte> ScratchMover::memory_of(const Piece& piece) const {
  const Bytes each = scratch_.shape().block_bytes;
  return {moves_[piece.ticket].what.target + piece.first * each, piece.count * each};
}

void ScratchMover::hand(Reader& reader, uint32_t index) {
  const Piece& piece = pieces_[index];
  const Transfer& what = moves_[piece.ticket].what;
  const std::span<std::byte> memory = memory_of(piece);
  reader.add({.id = first_id_ + index,
              .file = file_,
              .offset = scratch_.offset(what.object, piece.first),
              .bytes = memory.size(),
              .object = what.object,
              .chunk = piece.first,
              .target = memory.data(),
              .kind = is_scratch_write(what) ? IoKind::kWrite : IoKind::kRead,
              .verifies = false});
}

void ScratchMover::feed(Reader& reader) {
  while (queued_ > 0 && !free_.empty()) {
    Move& move = moves_[queue_[head_]];
    if (move.run == move.what.blocks.size() || move.result.fault != ReadFault::kNone) {
      head_ = (head_ + 1) % queue_.size();
      --queued_;
      continue;
    }
    const BlockRun& run = move.what.blocks[move.run];
    const uint32_t index = free_.back();
    free_.pop_back();
    Piece& piece = pieces_[index];
    piece = {.ticket = queue_[head_],
             .first = run.first + move.block,
             .count = std::min(piece_blocks_, run.count - move.block)};
    move.block += piece.count;
    if (move.block == run.count) ++move.run, move.block = 0;
    if (move.result.begin_ns == 0) move.result.begin_ns = steady_clock().now_ns();
    ++move.outstanding;
    if (is_scratch_write(move.what)) {
      const uint64_t begin = thread_cpu_ns();
      scratch_.seal(move.what.object, piece.first, memory_of(piece));
      cpu_ns_ += thread_cpu_ns() - begin;
    }
    hand(reader, index);
  }
}

bool ScratchMover::finish(const ChunkResult& result, Reader& reader, ChunkResult& out) {
  const uint32_t index = result.id - first_id_;
  Piece& piece = pieces_[index];
  Move& move = moves_[piece.ticket];
  ChunkResult& sum = move.result;
  sum.retries += result.retries;
  sum.retried_bytes += result.retried_bytes;
  if (result.fault != ReadFault::kNone && sum.fault == ReadFault::kNone) {
    sum.fault = result.fault;
    sum.error = result.error;
    sum.where = result.where;
  }
  if (result.fault == ReadFault::kNone && !is_scratch_write(move.what)) {
    const uint64_t begin = thread_cpu_ns();
    const auto differs = scratch_.differs(move.what.object, piece.first, memory_of(piece));
    cpu_ns_ += thread_cpu_ns() - begin;
    if (differs) {
      ++sum.checksum_failures;
      if (!piece.second) {  // tells a bad transfer from bad media
        piece.second = true;
        ++sum.retries;
        sum.retried_bytes += memory_of(piece).size();
        hand(reader, index);
        return false;
      }
      if (sum.fault == ReadFault::kNone) {
        sum.fault = ReadFault::kCorrupt;
        sum.where = scratch_.offset(move.what.object, *differs);
      }
    }
  }
  free_.push_back(index);
  --move.outstanding;
  if (!over(move)) return false;
  out = sum;
  return true;
}

void ScratchMover::drop_queued(std::vector<ChunkResult>& out) {
  for (; queued_ > 0; --queued_, head_ = (head_ + 1) % queue_.size()) {
    Move& move = moves_[queue_[head_]];
    if (move.run == move.what.blocks.size()) continue;
    if (move.result.fault == ReadFault::kNone) move.result.fault = ReadFault::kDropped;
    if (move.outstanding == 0) out.push_back(move.result);
  }
}

void ScratchMover::throw_fault(const ChunkResult& result, const Transfer& transfer) const {
  const bool writes = is_scratch_write(transfer);
  const std::string what = fmt::format(
      "cannot {} keys and values {} the scratch file in {} at byte {}", writes ? "write" : "read",
      writes ? "to" : "from", scratch_.folder(), result.where);
  if (result.fault == ReadFault::kCorrupt) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: they are not what was written, also when read again; check the "
                            "disk",
                            what))
        .at_path(scratch_.folder());
  }
  const std::string why = result.fault == ReadFault::kTruncated ? "the disk moves nothing"
                          : result.fault == ReadFault::kDropped ? "the pager was closed"
                                                                : std::strerror(result.error);
  throw Error(
      ErrorCode::kIo,
      fmt::format("{}: {}; check the disk and the room on it, or give more --kv-memory", what, why))
      .at_path(scratch_.folder());
}

}  // namespace headrace::swap
