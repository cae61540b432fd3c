#include "core/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "core/checked.h"
#include "core/error.h"
#include "core/numa.h"

namespace headrace {
namespace {

[[noreturn]] void refuse(Bytes bytes, const char* why) {
  throw Error(ErrorCode::kFailed,
              fmt::format("memory of {}: {}; use a smaller budget, or free memory on this machine",
                          format_bytes(bytes), why));
}

// Reads a line of /proc/self/smaps that opens a mapping: "7f00…-7f01… rw-p …".
bool parse_range(const std::string& line, uintptr_t& begin, uintptr_t& end) {
  const char* last = line.data() + line.size();
  const auto first = std::from_chars(line.data(), last, begin, 16);
  if (first.ec != std::errc{} || first.ptr == last || *first.ptr != '-') return false;
  const auto second = std::from_chars(first.ptr + 1, last, end, 16);
  return second.ec == std::errc{} && second.ptr != last && *second.ptr == ' ';
}

void touch_pages(std::byte* data, Bytes bytes) {
  if (bytes == 0 || madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return;
  // Kernels before 5.14: write back what is there, so that contents survive.
  for (Bytes at = 0; at < bytes; at += kBlock) {
    volatile std::byte* page = data + at;
    *page = *page;
  }
}

}  // namespace

// A page without access stays mapped behind the memory: an overrun faults at once, and the kernel
// never merges two arenas into one mapping, so that huge_page_bytes() counts one arena alone.
Arena::Arena(Bytes bytes) {
  if (bytes == 0) return;
  const auto padded = checked_add(bytes, 2 * kHugePage);
  if (!padded || *padded > Bytes{PTRDIFF_MAX}) refuse(bytes, "more than the address space");
  const Bytes size = round_up(bytes, kHugePage);
  const Bytes reserved = size + kHugePage + kBlock;
  void* base = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) refuse(bytes, std::strerror(errno));
  const auto address = reinterpret_cast<uintptr_t>(base);
  const uintptr_t aligned = round_up(address, kHugePage);
  const Bytes before = aligned - address;
  const Bytes after = reserved - before - size - kBlock;
  if (before > 0) munmap(base, before);
  auto* data = reinterpret_cast<std::byte*>(aligned);
  if (after > 0) munmap(data + size + kBlock, after);
  if (mprotect(data, size, PROT_READ | PROT_WRITE) != 0) {
    const int error = errno;
    munmap(data, size + kBlock);
    refuse(bytes, std::strerror(error));
  }
  // All are wishes: a kernel without huge pages still gives correct, slower memory.
  madvise(data, size, MADV_HUGEPAGE);
  madvise(data, size, MADV_DONTFORK);
  const std::vector<unsigned> nodes = memory_nodes();
  if (nodes.size() > 1) interleave(data, size, nodes);
  data_ = data;
  size_ = size;
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, size_ + kBlock);
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  Arena taken(std::move(other));
  std::swap(data_, taken.data_);
  std::swap(size_, taken.size_);
  return *this;
}

std::span<std::byte> Arena::span(Bytes offset, Bytes bytes) const {
  HEADRACE_ASSERT(offset <= size_ && bytes <= size_ - offset,
                  fmt::format("{} + {} of {}", offset, bytes, size_));
  return {data_ + offset, bytes};
}

void Arena::touch(unsigned threads) const {
  const Bytes pages = size_ / kHugePage;
  const Bytes workers = std::clamp<Bytes>(threads, 1, std::max<Bytes>(pages, 1));
  std::vector<std::jthread> others;
  others.reserve(workers - 1);
  const auto share = [&](Bytes i) {
    const Bytes begin = pages * i / workers * kHugePage;
    const Bytes end = pages * (i + 1) / workers * kHugePage;
    touch_pages(data_ + begin, end - begin);
  };
  for (Bytes i = 1; i < workers; ++i) others.emplace_back(share, i);
  share(0);
}

Bytes Arena::huge_page_bytes() const {
  std::ifstream smaps("/proc/self/smaps");  // absent in some containers: then nothing is known
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t end = begin + size_;
  constexpr std::string_view kField = "AnonHugePages:";
  Bytes sum = 0;
  bool inside = false;
  std::string line;
  while (std::getline(smaps, line)) {
    uintptr_t first = 0;
    uintptr_t last = 0;
    if (parse_range(line, first, last)) {
      inside = first < end && begin < last;
    } else if (inside && line.starts_with(kField)) {
      sum += std::strtoull(line.c_str() + kField.size(), nullptr, 10) * kKiB;
    }
  }
  return std::min(sum, size_);
}

std::byte* Bump::take(Bytes bytes, Bytes alignment) {
  HEADRACE_ASSERT(alignment > 0 && (alignment & (alignment - 1)) == 0,
                  fmt::format("alignment {}", alignment));
  const auto next = reinterpret_cast<uintptr_t>(room_.data()) + used_;
  const Bytes gap = (alignment - next % alignment) % alignment;
  const Bytes left = room_.size() - used_;
  HEADRACE_ASSERT(gap <= left && bytes <= left - gap,
                  fmt::format("{} bytes (aligned to {}) of {} left", bytes, alignment, left));
  std::byte* piece = room_.data() + used_ + gap;
  used_ += gap + bytes;
  return piece;
}

}  // namespace headrace
