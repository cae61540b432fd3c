#include "swap/io.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "swap/blocking/blocking.h"

namespace headrace::swap {
namespace {

constexpr uint64_t kProbeNs = 10'000'000'000;  // a device may stall for seconds

// A read through a small ring of its own: setting a ring up can succeed where using it does not.
// It reads where the file has ended, which takes the whole path through the kernel but moves no
// bytes: what a process reads stays equal to what the ledger and the store have counted.
void probe_uring(const IoFiles& files) {
  if (files.descriptors.empty()) return;
  struct stat status {};
  if (fstat(files.descriptors[0], &status) != 0) {
    throw Error(ErrorCode::kIo, fmt::format("cannot probe io_uring: fstat: {}; check the store",
                                            std::strerror(errno)));
  }
  const std::unique_ptr<std::byte, void (*)(void*)> room(
      static_cast<std::byte*>(std::aligned_alloc(kBlock, kBlock)), std::free);
  const std::unique_ptr<IoBackend> ring = open_uring(files, {.operations_max = 1});
  const IoOp op{.offset = round_up(static_cast<Bytes>(status.st_size), kBlock),
                .data = room.get(),
                .bytes = kBlock};
  std::vector<IoCompletion> done;
  if (ring->submit({&op, 1}) == 1) ring->poll(1, kProbeNs, done);
  if (done.size() == 1 && done[0].result >= 0) return;
  const char* reason = done.empty() ? "no answer" : std::strerror(-done[0].result);
  throw Error(ErrorCode::kIo,
              fmt::format("io_uring is there but a probe read failed: {}; use pread", reason));
}

}  // namespace

std::unique_ptr<IoBackend> open_io(std::string_view engine, const IoFiles& files,
                                   const IoOptions& options) {
  if (engine == "pread") return open_blocking(files, options);
  if (engine != "auto" && engine != "io_uring") {
    throw Error(ErrorCode::kUsage,
                fmt::format("unknown I/O engine \"{}\": it must be auto, io_uring or pread; "
                            "choose one of these",
                            engine))
        .at_field("io_engine");
  }
  try {
    probe_uring(files);
    return open_uring(files, options);
  } catch (const Error& error) {
    if (engine == "io_uring") {
      throw Error(ErrorCode::kUsage, error.what()).at_field("io_engine");
    }
    return open_blocking_because(files, options,
                                 fmt::format("reads use pread threads: {}", error.what()));
  }
}

}  // namespace headrace::swap
