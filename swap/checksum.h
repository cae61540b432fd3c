// checksum() of swap/store.h in pieces, for chunks larger than the buffer they pass through, and
// the digest of superblocks and manifests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/spec.h"

namespace headrace::swap {

class ChunkChecksum {  // begin, add…, end; begins again for the next chunk without allocating
 public:
  ChunkChecksum();
  ~ChunkChecksum();
  void begin(uint64_t store_uuid, ObjectId object, uint32_t chunk);
  void add(std::span<const std::byte> data);
  uint64_t end() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

uint64_t plain_digest(std::span<const std::byte> data, uint64_t seed);  // XXH3-64

}  // namespace headrace::swap
