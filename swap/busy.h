// Whether another process is making a store, and waiting for it: two first runs of one model share
// the work instead of failing each other. The lock tells, and the kernel frees it when its holder
// dies, so that whoever waits can take over.
#pragma once

#include <functional>
#include <string>

namespace headrace::swap {

// True while another process writes the store in `folder`; false also when there is none.
bool writer_at_work(const std::string& folder);

// Waits until that is over. False when the writer has written nothing for `patience_s`. `tick` is
// called several times a second and may throw.
bool wait_for_writer(const std::string& folder, double patience_s,
                     const std::function<void()>& tick);

}  // namespace headrace::swap
