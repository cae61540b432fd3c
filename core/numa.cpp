#include "core/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <string>

namespace headrace {
namespace {

constexpr unsigned kNodesMax = 1024;  // as the kernel's

// Reads a number from the front of `text`.
bool take_number(std::string_view& text, unsigned& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number >= kNodesMax) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

}  // namespace

std::vector<unsigned> parse_nodes(std::string_view list) {
  std::vector<unsigned> nodes;
  while (true) {
    unsigned first = 0;
    if (!take_number(list, first)) return {};
    unsigned last = first;
    if (list.starts_with('-')) {
      list.remove_prefix(1);
      if (!take_number(list, last)) return {};
    }
    if (last < first || (!nodes.empty() && first <= nodes.back())) return {};
    for (unsigned node = first; node <= last; ++node) nodes.push_back(node);
    if (list.empty()) return nodes;
    if (!list.starts_with(',')) return {};
    list.remove_prefix(1);
  }
}

std::vector<unsigned> memory_nodes() {
  constexpr std::string_view kField = "Mems_allowed_list:\t";
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(kField)) return parse_nodes(std::string_view(line).substr(kField.size()));
  }
  return {};
}

bool interleave(std::byte* data, Bytes bytes, const std::vector<unsigned>& nodes) {
  constexpr unsigned kBits = 8 * sizeof(unsigned long);
  unsigned long mask[kNodesMax / kBits] = {};
  for (unsigned node : nodes) mask[node / kBits] |= 1ul << node % kBits;
  // The call itself: libnuma would be a library for one line.
  return syscall(SYS_mbind, data, bytes, MPOL_INTERLEAVE, mask, kNodesMax, 0) == 0;
}

}  // namespace headrace
