#include "swap/checksum.h"

#include "swap/hash/hash.h"
#include "swap/store.h"

namespace headrace::swap {
namespace {

uint64_t checksum_seed(uint64_t store_uuid, ObjectId object, uint32_t chunk) {
  // Hashed together, not added: no two chunks of a store may share a seed by arithmetic.
  const uint64_t place[2] = {store_uuid, uint64_t{chunk} << 32 | object};
  return hash64(place, sizeof place, 0);
}

}  // namespace

uint64_t checksum(std::span<const std::byte> data, uint64_t store_uuid, ObjectId object,
                  uint32_t chunk) {
  return hash64(data.data(), data.size(), checksum_seed(store_uuid, object, chunk));
}

struct ChunkChecksum::State {
  XXH3_state_t xxh;
};

ChunkChecksum::ChunkChecksum() : state_(std::make_unique<State>()) {}
ChunkChecksum::~ChunkChecksum() = default;

void ChunkChecksum::begin(uint64_t store_uuid, ObjectId object, uint32_t chunk) {
  XXH3_64bits_reset_withSeed(&state_->xxh, checksum_seed(store_uuid, object, chunk));
}

void ChunkChecksum::add(std::span<const std::byte> data) {
  hash64_update(state_->xxh, data.data(), data.size());
}

uint64_t ChunkChecksum::end() const { return XXH3_64bits_digest(&state_->xxh); }

uint64_t plain_digest(std::span<const std::byte> data, uint64_t seed) {
  return hash64(data.data(), data.size(), seed);
}

}  // namespace headrace::swap
