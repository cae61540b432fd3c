#include "swap/in_place.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "swap/file.h"

namespace headrace::swap {
namespace {

constexpr size_t kSpansMax = 64;  // of a chunk: pointers to them are on the stack

Bytes begin_of(const FileSpan& span) { return round_down(span.offset, kBlock); }
Bytes end_of(const FileSpan& span) { return round_up(span.offset + span.bytes, kBlock); }

// Calls f(span, joins): whether the span's blocks go on from those of the span before.
template <typename F>
void for_each_run(std::span<const FileSpan> spans, const F& f) {
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool joins = i > 0 && spans[i].file == spans[i - 1].file &&
                       spans[i].offset >= spans[i - 1].offset + spans[i - 1].bytes &&
                       begin_of(spans[i]) <= end_of(spans[i - 1]);
    f(spans[i], joins);
  }
}

struct ChunkRuns {
  uint32_t first = 0, count = 0;  // into runs
  uint32_t first_span = 0, spans = 0;
  Bytes read_bytes = 0;
};

class InPlaceStore final : public Store, public Unpacking, public FileWatch {
 public:
  explicit InPlaceStore(InPlaceSpec spec) : make_(std::move(spec.make)), files_(spec.files) {
    info_ = {.path = spec.folder,
             .fingerprint = spec.fingerprint,
             .source = spec.folder,
             .complete = true};
    while (getrandom(&uuid_, sizeof uuid_, 0) != sizeof uuid_) {
    }
    open_files();
    for (const auto& chunks : spec.objects) add_object(chunks);
  }

  const StoreInfo& info() const override { return info_; }
  uint64_t uuid() const override { return uuid_; }
  std::string_view metadata() const override { return {}; }
  size_t objects() const override { return first_.size(); }
  std::span<const Extent> extents(ObjectId object) const override {
    HEADRACE_ASSERT(object < first_.size());
    const size_t end = object + 1 < first_.size() ? first_[object + 1] : extents_.size();
    return std::span(extents_).subspan(first_[object], end - first_[object]);
  }
  const IoFiles& files() const override { return io_files_; }
  std::string file_path(uint32_t file) const override { return files_[file].path; }
  Bytes metadata_bytes_read() const override { return 0; }
  const Unpacking* unpacking() const override { return this; }

  std::span<const FileRun> runs(ObjectId object, uint32_t chunk) const override {
    const ChunkRuns& c = of(object, chunk);
    return std::span(runs_).subspan(c.first, c.count);
  }
  Bytes read_bytes(ObjectId object, uint32_t chunk) const override {
    return of(object, chunk).read_bytes;
  }
  Bytes read_bytes_most() const override { return read_bytes_most_; }

  bool unchanged(ObjectId object, uint32_t chunk) const override {
    for (const FileRun& run : runs(object, chunk)) {
      if (!same(run.file)) return false;
    }
    return true;
  }

  void unpack(ObjectId object, uint32_t chunk, const std::byte* read,
              std::byte* target) const override {
    const ChunkRuns& c = of(object, chunk);
    const std::byte* spans[kSpansMax];
    for (uint32_t i = 0; i < c.spans; ++i) spans[i] = read + places_[c.first_span + i];
    make_(object, chunk, {spans, c.spans}, target);
  }

 private:
  const ChunkRuns& of(ObjectId object, uint32_t chunk) const {
    return chunks_[first_[object] + chunk];
  }

  void open_files() {
    for (uint32_t i = 0; i < files_.size(); ++i) {
      opened_.push_back(File::open_linked(files_[i].path));
      if (!same(i)) {
        throw Error(
            ErrorCode::kFailed,
            fmt::format("{}: the file changed while it was opened; run again", files_[i].path))
            .at_path(files_[i].path);
      }
      opened_.back().probe_direct();
      io_files_.descriptors.push_back(opened_.back().descriptor());
      io_files_.direct = (i == 0 || io_files_.direct) && opened_.back().direct();
    }
  }

  bool same(uint32_t file) const {
    const InPlaceFile& was = files_[file];
    struct stat s {};
    if (fstat(opened_[file].descriptor(), &s) != 0) return false;
    return static_cast<Bytes>(s.st_size) == was.bytes &&
           s.st_mtim.tv_sec * 1'000'000'000 + s.st_mtim.tv_nsec == was.mtime_ns &&
           s.st_ctim.tv_sec * 1'000'000'000 + s.st_ctim.tv_nsec == was.ctime_ns;
  }

  void add_object(const std::vector<InPlaceChunk>& chunks) {
    first_.push_back(static_cast<uint32_t>(extents_.size()));
    for (const InPlaceChunk& chunk : chunks) {
      HEADRACE_ASSERT(!chunk.spans.empty() && chunk.spans.size() <= kSpansMax,
                      fmt::format("{} spans", chunk.spans.size()));
      HEADRACE_ASSERT(chunk.bytes > 0 && chunk.bytes % kBlock == 0);
      add_chunk(chunk);
    }
  }

  void add_chunk(const InPlaceChunk& chunk) {
    ChunkRuns c{.first = static_cast<uint32_t>(runs_.size()),
                .first_span = static_cast<uint32_t>(places_.size()),
                .spans = static_cast<uint32_t>(chunk.spans.size())};
    for_each_run(chunk.spans, [&](const FileSpan& span, bool joins) {
      const Bytes size = files_.at(span.file).bytes;
      HEADRACE_ASSERT(span.bytes > 0 && span.offset <= size && span.bytes <= size - span.offset,
                      files_[span.file].path);
      if (!joins) runs_.push_back({.file = span.file, .offset = begin_of(span)});
      FileRun& run = runs_.back();
      const Bytes before = run.bytes, end = end_of(span);
      run.bytes = end - run.offset;
      run.missing = end > size ? end - size : 0;
      places_.push_back(c.read_bytes - before + (span.offset - run.offset));
      c.read_bytes += run.bytes - before;
    });
    c.count = static_cast<uint32_t>(runs_.size()) - c.first;
    const FileRun& run = runs_[c.first];
    extents_.push_back({.file = run.file, .offset = run.offset, .bytes = chunk.bytes});
    chunks_.push_back(c);
    info_.bytes += c.read_bytes;
    read_bytes_most_ = std::max(read_bytes_most_, c.read_bytes);
  }

  const decltype(InPlaceSpec::make) make_;
  const std::vector<InPlaceFile> files_;
  std::vector<File> opened_;
  IoFiles io_files_;
  StoreInfo info_;
  uint64_t uuid_ = 0;
  Bytes read_bytes_most_ = 0;
  std::vector<uint32_t> first_;    // by object: its first chunk
  std::vector<Extent> extents_;    // by chunk
  std::vector<ChunkRuns> chunks_;  // by chunk
  std::vector<FileRun> runs_;
  std::vector<Bytes> places_;  // of each span, from the start of its chunk's reads
};

}  // namespace

Bytes aligned_bytes(std::span<const FileSpan> spans) {
  Bytes sum = 0, end = 0;
  for_each_run(spans, [&](const FileSpan& span, bool joins) {
    sum += end_of(span) - (joins ? end : begin_of(span));
    end = end_of(span);
  });
  return sum;
}

std::unique_ptr<Store> open_in_place(InPlaceSpec spec) {
  return std::make_unique<InPlaceStore>(std::move(spec));
}

}  // namespace headrace::swap
