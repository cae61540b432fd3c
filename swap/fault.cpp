#include "swap/fault.h"

#include <fmt/format.h>

#include <cstring>

#include "core/clock.h"
#include "core/error.h"

namespace headrace::swap {
namespace {

std::string corrupt(const Store& store, const ChunkResult& result, const Extent& extent) {
  if (store.unpacking() != nullptr) {
    return "its bytes are not what they were when this run first read them, also when read again: "
           "the file was changed, or the disk or memory is failing; run again, and leave the "
           "model's files alone while it runs";
  }
  return fmt::format(
      "its checksum is {:016x} and must be {:016x}, also when read again; delete the store so that "
      "it is made anew, and check the disk",
      result.digest, extent.digest);
}

}  // namespace

void throw_fault(const Store& store, const ChunkResult& result, const FaultPlace& place,
                 const std::string& engine_failure) {
  const Extent& extent = store.extents(place.object)[place.chunk];
  const bool sealed = store.unpacking() == nullptr;
  const bool placed = result.fault == ReadFault::kDropped || result.fault == ReadFault::kChanged;
  const std::string path = store.file_path(placed ? extent.file : result.file);
  const std::string what = fmt::format("cannot read object {}, chunk {}, from {} at byte {}",
                                       place.object, place.chunk, path, result.where);
  const char* const again =
      sealed ? "delete the store so that it is made anew" : "fetch the model's files again";
  switch (result.fault) {
    case ReadFault::kCorrupt:
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", what, corrupt(store, result, extent)))
          .at_path(path);
    case ReadFault::kTruncated:
      throw Error(
          ErrorCode::kIo,
          fmt::format("{}: the file is truncated, more bytes were to follow; {}", what, again))
          .at_path(path);
    case ReadFault::kIo:
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: {} in bytes {} to {}, also when read again; check the disk "
                              "(dmesg), or {}",
                              what, std::strerror(result.error), result.where,
                              result.where + kBlock, again))
          .at_path(path);
    case ReadFault::kRefused:
      throw Error(ErrorCode::kIo, fmt::format("{}: {}; check the disk (dmesg), or {}", what,
                                              std::strerror(result.error), again))
          .at_path(path);
    case ReadFault::kChanged:
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: the file was changed while it was in use; run again, and leave "
                              "the model's files alone while it runs",
                              path))
          .at_path(path);
    case ReadFault::kDropped:
    case ReadFault::kNone:
      break;
  }
  throw Error(ErrorCode::kIo, fmt::format("{}: {}; start again", what, engine_failure))
      .at_path(path);
}

void StallWatch::look(const Reader& reader, const Store& store) {
  if (!note) return;
  const uint64_t now_ns = steady_clock().now_ns();
  if (now_ns < next_look_ns) return;
  next_look_ns = now_ns + stall_ns / 8;
  const Reader::Oldest oldest = reader.oldest();
  if (oldest.since_ns == 0 || oldest.since_ns == told_of_ns) return;
  if (now_ns < oldest.since_ns + stall_ns) return;
  told_of_ns = oldest.since_ns;
  const bool named = oldest.file != scratch_file;
  note(
      fmt::format("the disk has not answered for {:.0f} s: a request of {} bytes at byte {} of {}; "
                  "waiting for it",
                  static_cast<double>(now_ns - oldest.since_ns) * 1e-9, oldest.bytes, oldest.offset,
                  named ? store.file_path(oldest.file) : "the scratch file"));
}

}  // namespace headrace::swap
