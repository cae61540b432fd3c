#include "engine/bench_io.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/arena.h"
#include "core/clock.h"
#include "core/error.h"
#include "swap/file.h"
#include "swap/pager.h"
#include "swap/store.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

constexpr Bytes kRoomLeast = 32 * kMiB;     // targets of reads: more than is ever in flight
constexpr Bytes kWrittenMost = 256 * kMiB;  // where a file is read and a store is made beside it

double cpu_s(int who) {
  struct rusage use {};
  ::getrusage(who, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A store that the bench makes in `folder`, one object a chunk, and takes away again.
class OwnStore {
 public:
  OwnStore(const std::string& folder, Bytes bytes, Bytes chunk)
      : path_(fmt::format("{}/headrace-bench-{}", folder, ::getpid())) {
    std::vector<ObjectSpec> objects;
    for (Bytes at = 0; at + chunk <= bytes; at += chunk) {
      const auto id = static_cast<ObjectId>(objects.size());
      objects.push_back({.id = id, .name = "chunk", .chunks = {chunk}});
    }
    const Arena room(chunk);
    uint64_t word = 0x9e3779b97f4a7c15u;
    for (Bytes at = 0; at < chunk; at += sizeof word) {
      word = word * 6364136223846793005u + 1442695040888963407u;
      std::memcpy(room.data() + at, &word, sizeof word);
    }
    const double begin = steady_clock().seconds();
    auto writer = swap::StoreWriter::create(path_, {.fingerprint = "bench",
                                                    .source = "headrace bench io",
                                                    .metadata = "{}",
                                                    .objects = objects});
    for (const ObjectSpec& object : objects) {
      std::memcpy(room.data(), &object.id, sizeof object.id);
      writer->write(object.id, 0, room.span(0, chunk));
    }
    writer->commit();
    bytes_per_s_ = static_cast<double>(objects.size() * chunk) / (steady_clock().seconds() - begin);
  }
  ~OwnStore() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  OwnStore(const OwnStore&) = delete;
  OwnStore& operator=(const OwnStore&) = delete;

  const std::string& path() const { return path_; }
  double bytes_per_s() const { return bytes_per_s_; }

 private:
  std::string path_;
  double bytes_per_s_ = 0;
};

// Any file as a store of equal chunks, whose checksums are taken when it is opened.
class FileStore final : public swap::Store {
 public:
  FileStore(const std::string& path, Bytes bytes, Bytes chunk)
      : file_(swap::File::open_linked(path)) {
    file_.probe_direct();
    const Bytes count = std::min(bytes, file_.size()) / chunk;
    if (count == 0) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: it holds {} bytes, less than a chunk of {}; give a larger file, "
                              "or a smaller --chunk",
                              path, file_.size(), format_bytes(chunk)))
          .at_path(path)
          .at_field("--path");
    }
    const Arena room(chunk);
    for (Bytes i = 0; i < count; ++i) {
      file_.read(room.span(0, chunk), i * chunk);
      extents_.push_back(
          {.file = 0,
           .offset = i * chunk,
           .bytes = chunk,
           .digest = swap::checksum(room.span(0, chunk), uuid(), static_cast<ObjectId>(i), 0)});
    }
    files_ = {.descriptors = {file_.descriptor()}, .direct = file_.direct()};
    info_.path = path;
  }

  const swap::StoreInfo& info() const override { return info_; }
  uint64_t uuid() const override { return 1; }
  std::string_view metadata() const override { return {}; }
  size_t objects() const override { return extents_.size(); }
  std::span<const swap::Extent> extents(ObjectId object) const override {
    return std::span(extents_).subspan(object, 1);
  }
  const swap::IoFiles& files() const override { return files_; }
  std::string file_path(uint32_t) const override { return info_.path; }
  Bytes metadata_bytes_read() const override { return 0; }

 private:
  swap::File file_;
  std::vector<swap::Extent> extents_;
  swap::IoFiles files_;
  swap::StoreInfo info_;
};

struct Chunk {
  ObjectId object = 0;
  uint32_t chunk = 0;
  swap::Extent extent;
};

struct Chunks {
  std::vector<Chunk> list;
  Bytes bytes = 0, most = 0;
};

Chunks chunks_of(const swap::Store& store, Bytes bytes_most) {
  Chunks out;
  for (ObjectId id = 0; id < store.objects(); ++id) {
    const auto extents = store.extents(id);
    for (uint32_t c = 0; c < extents.size(); ++c) {
      if (out.bytes > 0 && out.bytes + extents[c].bytes > bytes_most) return out;
      out.list.push_back({id, c, extents[c]});
      out.bytes += extents[c].bytes;
      out.most = std::max(out.most, extents[c].bytes);
    }
  }
  return out;
}

struct Reading {
  double seconds = 0, cpu_s = 0, verify_s = 0;
};

// One round through the pager: as many transfers under way as there is room for. What is done is
// taken back some at a time, as a run does that computes meanwhile.
Reading read_all(swap::Pager& pager, const Chunks& chunks, const Arena& room) {
  const size_t slots = room.size() / chunks.most, count = chunks.list.size();
  const size_t group = std::max<size_t>(1, slots / 4);
  std::vector<swap::Ticket> tickets(count);
  const auto readers_cpu = [] { return cpu_s(RUSAGE_SELF) - cpu_s(RUSAGE_THREAD); };
  const double verify = pager.counters().verify_cpu_s, cpu = readers_cpu();
  const double begin = steady_clock().seconds();
  for (size_t next = 0; next < count + slots; ++next) {
    if (next >= slots && next - slots < count) {
      const size_t oldest = next - slots;  // the last of its group is waited for first
      if (oldest % group == 0) pager.wait(tickets[std::min(oldest + group, count) - 1]);
      if (oldest % group != group - 1 && oldest != count - 1) pager.wait(tickets[oldest]);
    }
    if (next >= count) continue;
    tickets[next] = pager.start({.object = chunks.list[next].object,
                                 .chunk = chunks.list[next].chunk,
                                 .target = room.data() + next % slots * chunks.most});
  }
  Reading r;
  r.seconds = steady_clock().seconds() - begin;
  r.verify_s = pager.counters().verify_cpu_s - verify;
  r.cpu_s = readers_cpu() - cpu - r.verify_s;
  return r;
}

// One round of the same requests through the backend alone; seconds.
double read_raw(swap::IoBackend& io, const Chunks& chunks, const BenchIo& shape,
                const Arena& room) {
  const size_t slots = room.size() / shape.block_bytes;
  std::vector<swap::IoOp> ops;
  for (const Chunk& chunk : chunks.list) {
    for (Bytes at = 0; at < chunk.extent.bytes; at += shape.block_bytes) {
      const Bytes bytes = std::min(shape.block_bytes, chunk.extent.bytes - at);
      ops.push_back({.file = chunk.extent.file,
                     .offset = chunk.extent.offset + at,
                     .data = room.data() + ops.size() % slots * shape.block_bytes,
                     .bytes = static_cast<uint32_t>(bytes),
                     .user = bytes});
    }
  }
  std::vector<swap::IoCompletion> done;
  const double begin = steady_clock().seconds();
  for (size_t next = 0, ended = 0; ended < ops.size(); ended += done.size()) {
    const size_t free = shape.depth - std::min<size_t>(shape.depth, io.in_flight());
    const size_t count = std::min(free, ops.size() - next);
    next += io.submit(std::span(ops).subspan(next, count));
    done.clear();
    io.poll(1, 1'000'000'000, done);
    for (const swap::IoCompletion& c : done) {
      if (c.result == static_cast<int32_t>(c.user)) continue;
      throw Error(ErrorCode::kIo,
                  fmt::format("{}: a read of {} bytes gave {}; check the disk (dmesg)", shape.file,
                              c.user, c.result))
          .at_path(shape.file);
    }
  }
  return steady_clock().seconds() - begin;
}

struct Opened {
  std::unique_ptr<OwnStore> own;  // in whose place the store is
  std::unique_ptr<swap::Store> store;
  std::optional<double> write_bytes_per_s;
};

// Made for the sake of its writing alone; none where there may be no writing.
std::optional<double> write_beside(const std::string& file, const BenchIoOptions& options) {
  if (!options.write) return std::nullopt;
  try {
    const std::string folder = fs::path(file).parent_path().string();
    return OwnStore(folder.empty() ? "." : folder, std::min(options.bytes, kWrittenMost),
                    options.chunk_bytes)
        .bytes_per_s();
  } catch (const Error&) {
    return std::nullopt;
  }
}

Opened open_path(const BenchIoOptions& options) {
  Opened out;
  const std::string& path = options.path;
  if (fs::is_directory(path) && fs::exists(fs::path(path) / "super")) {
    out.store = swap::Store::open(path);
    out.write_bytes_per_s = write_beside(fs::absolute(path).string(), options);
  } else if (fs::is_directory(path)) {
    out.own = std::make_unique<OwnStore>(path, options.bytes, options.chunk_bytes);
    out.store = swap::Store::open(out.own->path());
    out.write_bytes_per_s = out.own->bytes_per_s();
  } else if (fs::exists(path)) {
    out.store = std::make_unique<FileStore>(path, options.bytes, options.chunk_bytes);
    out.write_bytes_per_s = write_beside(path, options);
  } else {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: no such file or folder; name a file to read, a store, or a folder "
                            "to make one in",
                            path))
        .at_path(path)
        .at_field("--path");
  }
  return out;
}

}  // namespace

BenchIo bench_io(const BenchIoOptions& options) {
  const Opened opened = open_path(options);
  const swap::Store& store = *opened.store;
  const Chunks chunks = chunks_of(store, options.bytes);
  const Arena room(std::max(kRoomLeast, 4 * chunks.most));
  room.touch();
  const std::span<std::byte> buffer = room.span(0, room.size());
  const swap::PagerOptions how{.engine = options.io_engine, .buffers = {&buffer, 1}};
  BenchIo out{.file = store.file_path(0),
              .bytes = chunks.bytes,
              .block_bytes = std::min(how.request_bytes, chunks.most),
              .write_bytes_per_s = opened.write_bytes_per_s};
  out.depth = static_cast<uint32_t>(std::max<Bytes>(1, how.bytes_in_flight / out.block_bytes));
  const auto pager = swap::make_pager(store, how);
  const auto raw = swap::open_io(options.io_engine, store.files(),
                                 {.operations_max = out.depth, .buffers = how.buffers});
  const swap::IoCaps caps = pager->caps();
  out.engine = caps.name, out.direct = caps.direct, out.note = caps.note;
  std::vector<double> rates, raws, cpus, verifies;
  const double gb = static_cast<double>(chunks.bytes) * 1e-9;
  for (unsigned i = 0; i < options.rounds; ++i) {
    if (options.tick) options.tick();
    const auto through_pager = [&] {
      const Reading r = read_all(*pager, chunks, room);
      rates.push_back(gb * 1e9 / r.seconds);
      cpus.push_back(r.cpu_s / gb);
      verifies.push_back(r.verify_s / gb);
    };
    if (i % 2 == 0) through_pager();  // each goes first as often as the other
    raws.push_back(gb * 1e9 / read_raw(*raw, chunks, out, room));
    if (i % 2 == 1) through_pager();
  }
  out.read_bytes_per_s = median(rates);
  out.raw_bytes_per_s = median(raws);
  out.read_cpu_s_per_gb = median(cpus);
  out.verify_cpu_s_per_gb = median(verifies);
  return out;
}

}  // namespace headrace::engine
