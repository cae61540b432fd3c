// The pread pool with a note of why it serves in place of io_uring: for swap/io.cpp.
#pragma once

#include <memory>
#include <string>

#include "swap/io.h"

namespace headrace::swap {

std::unique_ptr<IoBackend> open_blocking_because(const IoFiles& files, const IoOptions& options,
                                                 std::string note);

}  // namespace headrace::swap
