// Backs memory ahead of its use, on threads of its own. The first touch of anonymous memory has the
// kernel (and under it a hypervisor) find and clear pages, which takes as long as a disk takes to
// fill them: done beside the reads, in the order in which they need it, most of that time is saved.
//
// Nothing but speed depends on it: contents stay as they are, whoever uses the memory meanwhile,
// and what could not be backed ahead is backed when it is used. The memory must outlive it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace headrace {

class Prefault {
 public:
  // Pieces in the order in which they will be needed. Where no thread can be had, or the kernel
  // (before 5.14) cannot do it, it is done at once, having backed nothing.
  Prefault(std::vector<std::span<std::byte>> pieces, unsigned threads);
  ~Prefault();  // gives up what has not begun: within the time of a few pages
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;

  bool done() const;  // nothing more will be backed; from any thread
  void wait() const;  // until done()

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace headrace
