// What the planning half and the running half of a session share.
#pragma once

#include <string>

#include "engine/session.h"

namespace headrace::engine {

inline constexpr size_t kTraceEvents = 1 << 18;  // recorded past that: dropped, counted in the file

std::string stores_folder(const SessionOptions& options);  // where stores and scratch go
// Bytes that the disk of that machine is to have in flight.
Bytes in_flight_of(const scheduler::Machine& machine);

}  // namespace headrace::engine
