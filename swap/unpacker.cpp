#include "swap/unpacker.h"

#include "core/error.h"
#include "swap/cpu_time.h"
#include "swap/pager.h"

namespace headrace::swap {
namespace {

constexpr uint32_t kPlacesMax = 256;  // as many reads as the backend has operations at most

}  // namespace

// What is under way, and two more: one that is being unpacked and one that takes its turn.
Bytes unpacking_room(Bytes read_bytes_most, Bytes bytes_in_flight) {
  const Bytes each = round_up(read_bytes_most, kBlock);
  const Bytes places = (bytes_in_flight + each - 1) / each + 2;
  return std::min<Bytes>(places, kPlacesMax) * each;
}

Unpacker::Unpacker(const Store& store, std::span<std::byte> room, uint32_t tickets_max)
    : form_(*store.unpacking()),
      watch_(dynamic_cast<const FileWatch*>(store.unpacking())),
      room_(room),
      place_bytes_(round_up(form_.read_bytes_most(), kBlock)),
      waiting_(tickets_max),
      place_of_(tickets_max) {
  HEADRACE_ASSERT(reinterpret_cast<uintptr_t>(room.data()) % kBlock == 0);
  HEADRACE_ASSERT(room.size() >= place_bytes_, "no room for a chunk that is to be unpacked");
  const Bytes places = std::min<Bytes>(room.size() / place_bytes_, kPlacesMax);
  for (auto i = static_cast<uint32_t>(places); i > 0; --i) free_.push_back(i - 1);
  uint32_t chunks = 0;
  for (ObjectId object = 0; object < store.objects(); ++object) {
    first_.push_back(chunks);
    chunks += static_cast<uint32_t>(store.extents(object).size());
  }
  digests_.resize(chunks);
}

uint32_t Unpacker::take() {
  const Priority lane = waiting_.turn();
  const uint32_t ticket = waiting_.front(lane);
  waiting_.served(lane);
  waiting_.pop(lane);
  return ticket;
}

void Unpacker::place(ChunkRead& read) {
  HEADRACE_ASSERT(!free_.empty());
  const uint32_t place = free_.back();
  free_.pop_back();
  place_of_[read.id] = place;
  read.runs = form_.runs(read.object, read.chunk);
  read.bytes = form_.read_bytes(read.object, read.chunk);
  read.digest = digest(read.object, read.chunk);
  read.target = room_.data() + place * place_bytes_;
}

void Unpacker::finish(ChunkResult& result, ObjectId object, uint32_t chunk, std::byte* target) {
  const uint32_t place = place_of_[result.id];
  std::optional<uint64_t>& known = digest(object, chunk);
  if (result.fault == ReadFault::kNone) {
    // Of two first reads at a time, the one that ends second is held to the other.
    const bool changed =
        known ? *known != result.digest : watch_ != nullptr && !watch_->unchanged(object, chunk);
    if (changed) result.fault = ReadFault::kChanged;
  }
  if (result.fault == ReadFault::kNone) {
    known = result.digest;
    const uint64_t begin = thread_cpu_ns();
    form_.unpack(object, chunk, room_.data() + place * place_bytes_, target);
    cpu_s_ += static_cast<double>(thread_cpu_ns() - begin) * 1e-9;
  }
  free_.push_back(place);
}

}  // namespace headrace::swap
