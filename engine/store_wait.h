// Two runs that need the same store: the later one waits for the earlier one's, and takes over when
// that one dies.
#pragma once

#include <functional>
#include <string>

#include "engine/session.h"

namespace headrace::engine {

// What `use` of the store in `path` returns, once no other process makes that store. Whatever else
// `use` throws is thrown.
bool while_free(const SessionOptions& options, const std::string& path,
                const std::function<bool()>& use);

}  // namespace headrace::engine
