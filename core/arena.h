// Anonymous memory in 2 MiB pages: one reservation per purpose, made once, never grown.
// 4 KiB pages cut direct-read bandwidth to a third (a request is limited by its number of
// segments), so everything that the disk reads into lives here.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/tier.h"

namespace headrace {

// Move-only; frees on destruction. Not thread-safe to move; the memory itself is plain memory.
class Arena {
 public:
  Arena() = default;
  // Reserves `bytes` rounded up to 2 MiB, aligned to 2 MiB, MADV_HUGEPAGE and MADV_DONTFORK,
  // spread over the machine's memory nodes.
  // Nothing is touched: memory is backed on first use. Throws kFailed when the kernel refuses.
  explicit Arena(Bytes bytes);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  std::byte* data() const { return data_; }
  Bytes size() const { return size_; }
  std::span<std::byte> span(Bytes offset, Bytes bytes) const;  // asserts that it lies inside

  void touch(unsigned threads = 1) const;  // backs every page now, so that the first pass does not
  Bytes huge_page_bytes() const;           // how much of it the kernel backs with 2 MiB pages

 private:
  std::byte* data_ = nullptr;
  Bytes size_ = 0;
};

// Gives out consecutive aligned pieces of a fixed range; never frees. For activations and
// workspaces.
class Bump {
 public:
  explicit Bump(std::span<std::byte> room) : room_(room) {}
  std::byte* take(Bytes bytes, Bytes alignment = 64);  // asserts that it fits
  template <typename T>
  T* take_array(size_t count) {
    return reinterpret_cast<T*>(take(count * sizeof(T)));
  }
  Bytes used() const { return used_; }

 private:
  std::span<std::byte> room_;
  Bytes used_ = 0;
};

}  // namespace headrace
