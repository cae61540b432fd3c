// Memory nodes: on a machine with several, memory that all threads read lies on all of them.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "core/tier.h"

namespace headrace {

// "0-1,4" as numbers, ascending; empty when it is no such list.
std::vector<unsigned> parse_nodes(std::string_view list);

std::vector<unsigned> memory_nodes();  // that this process may use; empty: not known

// Asks the kernel to back [data, data + bytes), whole pages that nothing has touched, by turns from
// all `nodes`: then threads on every node together read at the sum of the nodes' rates, wherever
// they run. False where the kernel refuses (a container without the right), and memory stays as it
// was.
bool interleave(std::byte* data, Bytes bytes, const std::vector<unsigned>& nodes);

}  // namespace headrace
