// Scratch: blocks that go to disk and come back within one run, and nothing of them afterwards. The
// file has no name, so that even a run that is killed leaves nothing; it is as long as it will ever
// be before the first block is written. Every block has a checksum in memory, set when the block is
// written and checked whenever it is read: a block that is stale, misdirected or damaged is an
// error, never data.
//
// Blocks are numbered the same in the file and in memory: an array (of one layer) is `blocks`
// blocks in a row, and what moves is a list of runs of neighbours, each a transfer of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tier.h"
#include "swap/file.h"

namespace headrace::swap {

struct BlockRun {  // blocks [first, first + count) of an array
  uint32_t first = 0;
  uint32_t count = 0;
  bool operator==(const BlockRun&) const = default;
};

struct ScratchShape {
  uint32_t arrays = 0;
  uint32_t blocks = 0;                 // of an array
  Bytes block_bytes = 0;               // a multiple of kBlock
  std::optional<Bytes> bytes() const;  // of the file; nullopt: beyond 64 bits
};

class Scratch {
 public:
  // Makes the file in `folder` and reserves its room on the disk. Throws kInfeasible with the bytes
  // that it takes where the disk has fewer, kIo where it cannot be made.
  Scratch(const std::string& folder, const ScratchShape& shape);

  int descriptor() const { return file_.descriptor(); }
  bool direct() const { return file_.direct(); }
  const std::string& folder() const { return folder_; }
  const ScratchShape& shape() const { return shape_; }
  Bytes offset(uint32_t array, uint32_t block) const {
    return (Bytes{array} * shape_.blocks + block) * shape_.block_bytes;
  }

  // The checksums of what lies, or is to lie, in blocks of `array` from `first` on. One thread.
  void seal(uint32_t array, uint32_t first, std::span<const std::byte> data);
  // The first block whose bytes are not those that were sealed last; nullopt: all are.
  std::optional<uint32_t> differs(uint32_t array, uint32_t first,
                                  std::span<const std::byte> data) const;

 private:
  uint64_t digest(uint32_t array, uint32_t block, const std::byte* data) const;

  std::string folder_;
  ScratchShape shape_;
  File file_;
  uint64_t seed_;                   // another one in every run
  std::vector<uint64_t> digests_;   // [arrays, blocks]
  std::vector<uint8_t> is_sealed_;  // [arrays, blocks]
};

}  // namespace headrace::swap
