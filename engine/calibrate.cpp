#include "engine/calibrate.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>

#include "core/arena.h"
#include "core/clock.h"
#include "core/error.h"
#include "swap/file.h"
#include "swap/io.h"
#include "swap/pager.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

constexpr Bytes kScratchBytes = 64 * kMiB;
constexpr Bytes kReadBytes = 1 * kMiB;
constexpr uint32_t kReadDepth = 4;
// What came back is taken up late where all cores compute and checksums are made: as long as this
// the disk lives on what is in flight beyond what it needs here.
constexpr double kLateS = 1.4e-3;

double best_of(int times, const std::function<void()>& body) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) {
    const double begin = steady_clock().seconds();
    body();
    best = std::min(best, steady_clock().seconds() - begin);
  }
  return best;
}

// Throws data out of the caches, so that the next read of it comes from memory.
void evict(const std::byte* data, Bytes bytes) {
#if defined(__x86_64__)
  for (Bytes i = 0; i < bytes; i += 64) __builtin_ia32_clflush(data + i);
  __builtin_ia32_mfence();
#else
  static_cast<void>(data), static_cast<void>(bytes);
#endif
}

struct Products {
  double flops = 0, read_bytes_per_s = 0;
};

// Rates of the product kernel itself: many rows (compute-bound) and one row (memory-bound).
Products measure_products(const kernels::Kernels& k, ThreadPool& pool, DType type) {
  constexpr uint64_t kDepth = 1024, kRows = 32;
  const Bytes panel = kernels::panel_bytes(type, kDepth);
  const Bytes weight_bytes = round_down(3 * kMiB, panel);
  const uint64_t outputs = weight_bytes / panel * kernels::kPanelRows;
  const Arena arena(kCalibrationMemory);
  Bump bump(arena.span(0, arena.size()));
  std::byte* weights = bump.take(weight_bytes);
  auto* x = bump.take(kRows * kDepth * 4);
  auto* y = bump.take_array<float>(kRows * outputs);
  std::memset(arena.data(), 0, arena.size());
  const auto product = [&](uint64_t rows) {
    k.matmul(pool, {.x = x,
                    .w = weights,
                    .w_type = type,
                    .m = rows,
                    .k = kDepth,
                    .n = outputs,
                    .y = y,
                    .y_stride = outputs});
  };
  Products p;
  product(kRows);
  p.flops =
      2.0 * kRows * kDepth * static_cast<double>(outputs) / best_of(8, [&] { product(kRows); });
  double best = 1e30;
  for (int i = 0; i < 24; ++i) {
    evict(weights, weight_bytes);
    best = std::min(best, best_of(1, [&] { product(1); }));
  }
  p.read_bytes_per_s = static_cast<double>(weight_bytes) / best;
  return p;
}

struct Disk {
  double read_bytes_per_s = 1e9, write_bytes_per_s = 1e9, latency_s = 1e-4;
  Bytes in_flight = 0;  // 0: not measured
  bool measured = false;
  std::string how;
};

// Past this limit the kernel would end the process by a signal.
bool may_write_scratch() {
  struct rlimit limit {};
  return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
         limit.rlim_cur >= kScratchBytes;
}

// A pass over the first `until` bytes, `depth` requests in flight; false when one came back wrong.
bool read_pass(swap::IoBackend& io, const Arena& arena, uint32_t depth, Bytes bytes, Bytes until) {
  std::vector<swap::IoCompletion> done;
  bool whole = true;
  for (Bytes next = 0, completed = 0; completed < until;) {
    while (next < until && io.in_flight() < depth) {
      // More are in flight than there is room for: nobody looks at what arrives.
      const swap::IoOp op{.file = 0,
                          .offset = next,
                          .data = arena.data() + next / bytes % kReadDepth * kReadBytes,
                          .bytes = static_cast<uint32_t>(bytes),
                          .user = next};
      if (io.submit({&op, 1}) == 0) break;
      next += bytes;
    }
    done.clear();
    io.poll(1, 1'000'000'000, done);
    completed += done.size() * bytes;
    for (const auto& c : done) whole &= c.result == static_cast<int32_t>(bytes);
  }
  return whole;
}

// Rates of an open file of at least `bytes`. Bytes in flight: the fewest that reach nine tenths of
// the most that the disk gives, because a demanded read waits for all that is in flight before it,
// and what it reads while it is answered late.
void measure_reads(int fd, bool direct, Bytes bytes, const Arena& arena, Disk& disk) {
  constexpr uint32_t kDeepest = 16, kDepths[] = {4, 8, kDeepest};
  const std::span<std::byte> room = arena.span(0, arena.size());
  const auto io = swap::open_io("auto", {.descriptors = {fd}, .direct = direct},
                                {.operations_max = kDeepest, .buffers = {&room, 1}});
  bool whole = true;
  const auto rate = [&](uint32_t depth) {
    return static_cast<double>(bytes) /
           best_of(3, [&] { whole &= read_pass(*io, arena, depth, kReadBytes, bytes); });
  };
  double rates[std::size(kDepths)], most = 0;
  for (size_t i = 0; i < std::size(kDepths); ++i) {
    rates[i] = rate(kDepths[i]);
    most = std::max(most, rates[i]);
  }
  size_t chosen = 0;
  while (rates[chosen] < 0.9 * most) ++chosen;
  disk.read_bytes_per_s = rates[chosen];
  const auto late =
      round_up(static_cast<Bytes>(kLateS * rates[chosen]), swap::PagerOptions{}.request_bytes);
  disk.in_flight = std::min(kDepths[chosen] * kReadBytes + late, kDeepest * kReadBytes);
  const Bytes blocks = std::min<Bytes>(64, bytes / kBlock);
  disk.latency_s = best_of(3, [&] { whole &= read_pass(*io, arena, 1, kBlock, blocks * kBlock); }) /
                   static_cast<double>(blocks);
  disk.measured = whole;
  disk.how = fmt::format("1 MiB {}reads, depth {}, through {}", direct ? "direct " : "",
                         kDepths[chosen], io->caps().name);
}

Disk measure_scratch(const std::string& folder) {
  Disk disk;
  std::error_code ignored;
  fs::create_directories(folder, ignored);
  std::string path = folder + "/calibrate-XXXXXX";
  const int made = may_write_scratch() ? ::mkstemp(path.data()) : -1;
  if (made < 0) {
    disk.how = "assumed 1 GB/s: no scratch file could be made in " + folder;
    return disk;
  }
  ::close(made);
  int fd = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  const bool direct = fd >= 0;
  if (fd < 0) fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ::unlink(path.c_str());
  const Arena arena(kReadDepth * kReadBytes);
  std::memset(arena.data(), 0x5a, arena.size());
  const double begin = steady_clock().seconds();
  bool ok = ::posix_fallocate(fd, 0, kScratchBytes) == 0;
  for (Bytes at = 0; ok && at < kScratchBytes; at += arena.size()) {
    ok = ::pwrite(fd, arena.data(), arena.size(), static_cast<off_t>(at)) ==
         static_cast<ssize_t>(arena.size());
  }
  ok = ok && ::fdatasync(fd) == 0;
  if (ok) {
    disk.write_bytes_per_s = kScratchBytes / (steady_clock().seconds() - begin);
    measure_reads(fd, direct, kScratchBytes, arena, disk);
  }
  ::close(fd);
  if (!ok) disk.how = "assumed 1 GB/s: no 64 MiB of scratch space in " + folder;
  if (ok && !disk.measured) {
    disk = {.how = "assumed 1 GB/s: the scratch file could not be read in " + folder};
  }
  return disk;
}

// Writes nothing: reads what is there, and takes writes to be as fast.
Disk measure_file(const std::string& path) {
  Disk disk;
  swap::File file = swap::File::open_linked(path);
  file.probe_direct();
  const Bytes bytes = std::min(kScratchBytes, round_down(file.size(), kReadBytes));
  if (bytes == 0) {
    disk.how = "assumed 1 GB/s: less than 1 MiB to read in " + path;
    return disk;
  }
  const Arena arena(kReadDepth * kReadBytes);
  arena.touch();
  measure_reads(file.descriptor(), file.direct(), bytes, arena, disk);
  if (!disk.measured) disk = {.how = "assumed 1 GB/s: it could not be read: " + path};
  disk.write_bytes_per_s = disk.read_bytes_per_s;
  return disk;
}

Disk measure_disk(const CalibrateOptions& options) {
  return options.read_file.empty() ? measure_scratch(options.scratch_folder)
                                   : measure_file(options.read_file);
}

// Which disk the figures are of: the device that holds the file, or the folder or what there is of
// its path.
std::string disk_id(const CalibrateOptions& options) {
  fs::path place = options.read_file.empty() ? options.scratch_folder : options.read_file;
  std::error_code ignored;
  while (!place.empty() && place.has_relative_path() && !fs::exists(place, ignored)) {
    place = place.parent_path();
  }
  struct stat s {};
  if (::stat(place.empty() ? "." : place.c_str(), &s) != 0) return "unknown";
  return fmt::format("{}:{}{}", major(s.st_dev), minor(s.st_dev),
                     options.read_file.empty() ? "" : " read");
}

std::string host_id(unsigned threads, const char* isa) {
  struct utsname u {};
  ::uname(&u);
  return fmt::format("{} {} {} threads {}", u.nodename, u.release, threads, isa);
}

// Only saves time: where it cannot be written, the next run measures again.
void remember(const scheduler::Machine& machine, const std::string& path) {
  std::error_code ignored;
  fs::create_directories(fs::path(path).parent_path(), ignored);
  const std::string temporary = path + fmt::format(".{}", ::getpid());
  std::ofstream file(temporary);
  file << to_pretty(machine_to_json(machine, 0, 0));
  file.close();
  if (file) fs::rename(temporary, path, ignored);
  if (!file || ignored) fs::remove(temporary, ignored);
}

}  // namespace

namespace {

scheduler::Machine measure_processor(const std::string& name, const kernels::Kernels& k,
                                     ThreadPool& pool) {
  scheduler::Machine m;
  m.name = name;
  m.threads = pool.threads();
  const Products f32 = measure_products(k, pool, DType::kF32);
  const Products bf16 = measure_products(k, pool, DType::kBF16);
  m.matmul_flops_f32 = f32.flops;
  m.matmul_flops_bf16 = bf16.flops;
  m.memory_read_bytes_per_s = std::max(f32.read_bytes_per_s, bf16.read_bytes_per_s);
  return m;
}

}  // namespace

scheduler::Machine calibrate(const CalibrateOptions& options, const kernels::Kernels& k,
                             ThreadPool& pool) {
  const std::string host = host_id(pool.threads(), k.isa), disk_name = " disk ";
  const std::string id = host + disk_name + disk_id(options);
  std::optional<scheduler::Machine> cached;
  if (!options.again && fs::exists(options.cache_file)) {
    try {
      cached = read_machine(options.cache_file);
      if (cached->name == id) return *cached;
    } catch (const Error&) {
      // An unreadable cache is measured anew.
    }
  }
  // Of another disk the cache still knows the processor.
  const bool same_host = cached && cached->name.starts_with(host + disk_name);
  scheduler::Machine m = same_host ? *cached : measure_processor(id, k, pool);
  m.name = id;
  const Disk disk = measure_disk(options);
  m.disk_in_flight = disk.in_flight;
  m.rates = {{{Tier::kDisk, Tier::kHost}, disk.read_bytes_per_s, disk.latency_s},
             {{Tier::kHost, Tier::kDisk}, disk.write_bytes_per_s, disk.latency_s},
             {{Tier::kHost, Tier::kDevice}, m.memory_read_bytes_per_s / 2, 1e-6},
             {{Tier::kDevice, Tier::kHost}, m.memory_read_bytes_per_s / 2, 1e-6}};
  m.measured_date = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)));
  m.measured_how = fmt::format("disk: {}; products: own kernels ({})", disk.how, k.isa);
  if (disk.measured && !options.cache_file.empty()) remember(m, options.cache_file);
  return m;
}

}  // namespace headrace::engine
