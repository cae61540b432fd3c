#include "engine/prepare.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/arena.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/convert.h"
#include "models/families.h"

namespace headrace::engine {

namespace {

using models::ChunkLayout;
using models::Form;
using models::ObjectLayout;
using models::Part;
using models::Piece;

// Reads byte ranges of the shards past the page cache: aligned over-reads into one buffer.
class SourceReader {
 public:
  SourceReader(const SafetensorsFolder& files, std::span<std::byte> buffer)
      : files_(files),
        buffer_(buffer),
        descriptors_(files.files.size(), -1),
        cached_(files.files.size(), -1) {}
  ~SourceReader() {
    for (int fd : descriptors_) {
      if (fd >= 0) ::close(fd);
    }
    for (int fd : cached_) {
      if (fd < 0) continue;
      ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      ::close(fd);
    }
  }
  SourceReader(const SourceReader&) = delete;
  SourceReader& operator=(const SourceReader&) = delete;

  // The bytes [offset, offset + bytes) of file `file`; valid until the next call.
  const std::byte* read(uint32_t file, Bytes offset, Bytes bytes) {
    const Bytes begin = round_down(offset, kBlock);
    const Bytes end = round_up(offset + bytes, kBlock);
    HEADRACE_ASSERT(end - begin <= buffer_.size(), fmt::format("{} bytes", end - begin));
    const int fd = descriptor(file);
    const Bytes last = std::min(end, files_.files[file].size);  // the file may end inside a block
    Bytes done = 0;
    while (begin + done < last) {
      const ssize_t n = ::pread(fd, buffer_.data() + done, end - begin - done, begin + done);
      if (n < 0 && (errno == EINTR || (errno == EINVAL && leave_direct(fd)))) continue;
      if (n <= 0) fail(file, n < 0 ? std::strerror(errno) : "the file was truncated");
      done += static_cast<Bytes>(n);
    }
    bytes_read_ += done;
    return buffer_.data() + (offset - begin);
  }

  struct Strips {
    uint64_t count;
    Bytes bytes, stride;
  };
  // `count` strips of `bytes`, `stride` apart, one after another; valid until the next call.
  // Through the page cache: the strips of the next piece lie in the same pages.
  const std::byte* read_strips(uint32_t file, Bytes offset, const Strips& strips) {
    HEADRACE_ASSERT(strips.count * strips.bytes <= buffer_.size());
    const int fd = cached_descriptor(file);
    for (uint64_t i = 0; i < strips.count; ++i) {
      for (Bytes done = 0; done < strips.bytes;) {
        const ssize_t n = ::pread(fd, buffer_.data() + i * strips.bytes + done, strips.bytes - done,
                                  static_cast<off_t>(offset + i * strips.stride + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail(file, n < 0 ? std::strerror(errno) : "the file was truncated");
        done += static_cast<Bytes>(n);
      }
    }
    bytes_read_ += strips.count * strips.bytes;
    return buffer_.data();
  }

  Bytes bytes_read() const { return bytes_read_; }

 private:
  int descriptor(uint32_t file) {
    int& fd = descriptors_[file];
    if (fd < 0) {
      const std::string& path = files_.files[file].path;
      fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
      if (fd < 0) fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);  // tmpfs refuses O_DIRECT
      if (fd < 0) fail(file, std::strerror(errno));
    }
    return fd;
  }

  int cached_descriptor(uint32_t file) {
    int& fd = cached_[file];
    if (fd < 0) fd = ::open(files_.files[file].path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(file, std::strerror(errno));
    return fd;
  }

  // Some filesystems take O_DIRECT at open and refuse it at the first read.
  static bool leave_direct(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_DIRECT) == 0) return false;
    return ::fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
  }

  [[noreturn]] void fail(uint32_t file, const char* why) const {
    const std::string& path = files_.files[file].path;
    throw Error(
        ErrorCode::kIo,
        fmt::format("{}: reading weights failed: {}; check the file and try again", path, why))
        .at_path(path);
  }

  const SafetensorsFolder& files_;
  std::span<std::byte> buffer_;
  std::vector<int> descriptors_, cached_;  // past the page cache, and through it
  Bytes bytes_read_ = 0;
};

// What a piece is made of: rows of the part one after another (of a vector: elements).
struct SourceBytes {
  const std::byte* rows;
  DType type;
};

// Columns to rows: in [k, count], out [count, k].
void transpose(const std::byte* in, uint64_t count, uint64_t k, Bytes element, std::byte* out) {
  for (uint64_t row = 0; row < count; ++row) {
    for (uint64_t i = 0; i < k; ++i) {
      std::memcpy(out + (row * k + i) * element, in + (i * count + row) * element, element);
    }
  }
}

// Brings the rows of a piece together, whatever their order in the checkpoint.
class PieceReader {
 public:
  PieceReader(const SafetensorsFolder& files, SourceReader& reader, std::byte* gathered)
      : files_(files), reader_(reader), gathered_(gathered) {}

  SourceBytes read(const Part& part, const Piece& piece) {
    const TensorInfo& tensor = *find_tensor(files_, part);
    const Bytes element = size_of(tensor.dtype);
    if (part.transposed) return {read_columns(part, piece, tensor), tensor.dtype};
    const bool vector = part.form == Form::kVector;
    const Bytes row = vector ? element : part.k * element;
    const auto runs =
        models::source_runs(part, vector ? 0 : piece.row_begin, vector ? part.k : piece.row_end);
    const auto read_run = [&](const models::SourceRun& run) {
      return reader_.read(tensor.file, tensor.offset + run.first * row, run.count * row);
    };
    if (runs.size() == 1) {
      const std::byte* rows = read_run(runs[0]);
      if (reinterpret_cast<uintptr_t>(rows) % element == 0) return {rows, tensor.dtype};
      std::memcpy(gathered_, rows, runs[0].count * row);
      return {gathered_, tensor.dtype};
    }
    Bytes at = 0;
    for (const models::SourceRun& run : runs) {
      std::memcpy(gathered_ + at, read_run(run), run.count * row);
      at += run.count * row;
    }
    return {gathered_, tensor.dtype};
  }

 private:
  const std::byte* read_columns(const Part& part, const Piece& piece, const TensorInfo& tensor) {
    const Bytes element = size_of(tensor.dtype);
    const Bytes width = models::tensor_shape(part)[1] * element;
    const uint64_t count = piece.row_end - piece.row_begin;
    const auto runs = models::source_runs(part, piece.row_begin, piece.row_end);
    HEADRACE_ASSERT(runs.size() == 1, part.tensor);
    const std::byte* columns =
        reader_.read_strips(tensor.file, tensor.offset + runs[0].first * element,
                            {.count = part.k, .bytes = count * element, .stride = width});
    transpose(columns, count, part.k, element, gathered_);
    return gathered_;
  }

  const SafetensorsFolder& files_;
  SourceReader& reader_;
  std::byte* gathered_;
};

Bytes piece_source_bytes(const Part& part, const Piece& piece) {
  const uint64_t rows = part.form == Form::kVector ? 1 : piece.row_end - piece.row_begin;
  return rows * part.k * 4;  // at most: the widest stored precision
}

struct Buffers {
  Bytes source = 0, chunk = 0;
};

Buffers buffers_for(const models::WeightLayout& layout) {
  Buffers b;
  for (const ObjectLayout& object : layout.objects) {
    for (const ChunkLayout& chunk : object.chunks) {
      b.chunk = std::max(b.chunk, chunk.bytes);
      for (const Piece& piece : chunk.pieces) {
        b.source = std::max(b.source, piece_source_bytes(object.parts[piece.part], piece));
      }
    }
  }
  b.source = round_up(b.source + 2 * kBlock, kBlock);
  return b;
}

// Tied, the head is the embedding. Files that hold it besides must hold the same: where they do
// not, transformers leaves the two apart, so config.json tells another model. `kept` is as large as
// the reader's buffer.
void check_tied_head(const ModelFolder& folder, const SafetensorsFolder& files,
                     SourceReader& reader, std::span<std::byte> kept) {
  const models::TensorNames& names = *folder.config.names;
  if (!folder.config.tie_word_embeddings) return;
  const TensorInfo* head = find_tensor(files, {.tensor = names.head, .also = names.head_also});
  if (head == nullptr) return;
  const TensorInfo& embedding = *find_tensor(files, {.tensor = names.embedding});
  bool same = head->dtype == embedding.dtype && head->shape == embedding.shape;
  const Bytes step = kept.size() - 2 * kBlock;
  for (Bytes at = 0; same && at < embedding.bytes; at += step) {
    const Bytes bytes = std::min(step, embedding.bytes - at);
    std::memcpy(kept.data(), reader.read(embedding.file, embedding.offset + at, bytes), bytes);
    same = std::memcmp(kept.data(), reader.read(head->file, head->offset + at, bytes), bytes) == 0;
  }
  if (same) return;
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: tensor {} differs from {}, but the config ties them; set "
                          "tie_word_embeddings to false in config.json",
                          folder.path, head->name, embedding.name))
      .at_path(folder.path)
      .at_field(head->name);
}

}  // namespace

std::string store_metadata(const ModelFolder& folder, const SafetensorsFolder& files) {
  json::array shards;
  for (const SafetensorsFile& file : files.files) {
    shards.push_back(json::object{{"path", file.path},
                                  {"bytes", file.size},
                                  {"header_digest", fmt::format("{:016x}", file.header_digest)}});
  }
  return to_text(json::object{{"dtype", name_of(folder.config.dtype)},
                              {"architecture", folder.config.architecture},
                              {"shards", shards}});
}

DType stored_dtype(const swap::Store& store) {
  const json::value value = parse_json(store.metadata(), store.info().path + " (metadata)");
  const json::value* text = value.is_object() ? value.as_object().if_contains("dtype") : nullptr;
  const auto dtype = text && text->is_string() ? parse_dtype(text->as_string()) : std::nullopt;
  if (!dtype || !is_weight_dtype(*dtype)) {
    throw Error(
        ErrorCode::kFormat,
        fmt::format(
            "{}: the store's metadata lack a dtype of weights; remove it with `headrace store "
            "remove` and run again",
            store.info().path))
        .at_path(store.info().path);
  }
  return *dtype;
}

Bytes prepared_bytes(const ModelFolder& folder, const SafetensorsFolder& files) {
  const std::vector<ObjectSpec> specs = models::layout_of(folder.config).specs();
  return swap::store_bytes({.fingerprint = fingerprint(folder),
                            .source = folder.path,
                            .metadata = store_metadata(folder, files),
                            .objects = specs});
}

void check_disk_memory(Bytes bytes, std::optional<Bytes> limit) {
  if (!limit || bytes <= *limit) return;
  throw Error(ErrorCode::kInfeasible,
              fmt::format("--disk-memory: the prepared store takes {} ({} bytes), more than {}; "
                          "give at least that much",
                          format_bytes(bytes), bytes, format_bytes(*limit)))
      .at_field("--disk-memory")
      .requiring(bytes);
}

PrepareReport prepare(const ModelFolder& folder, const SafetensorsFolder& files,
                      const models::WeightLayout& layout, const std::string& store_path,
                      std::optional<Bytes> limit, const kernels::Kernels& k,
                      const Progress& progress) {
  const std::vector<ObjectSpec> specs = layout.specs();
  const swap::StoreSpec spec{.fingerprint = fingerprint(folder),
                             .source = folder.path,
                             .metadata = store_metadata(folder, files),
                             .objects = specs};
  const Bytes needed = swap::store_bytes(spec);
  check_disk_memory(needed, limit);
  std::filesystem::create_directories(std::filesystem::path(store_path).parent_path());
  auto writer = swap::StoreWriter::create(store_path, spec);
  const Buffers sizes = buffers_for(layout);
  const Arena source(2 * sizes.source);  // the second half: rows that had to be brought together
  const Arena room(sizes.chunk);
  SourceReader reader(files, source.span(0, sizes.source));
  check_tied_head(folder, files, reader, source.span(sizes.source, sizes.source));
  PieceReader pieces(files, reader, source.data() + sizes.source);
  PrepareReport report;
  const Bytes total = layout.bytes();
  for (ObjectId id = 0; id < layout.objects.size(); ++id) {
    const ObjectLayout& object = layout.objects[id];
    for (uint32_t c = 0; c < object.chunks.size(); ++c) {
      const ChunkLayout& chunk = object.chunks[c];
      std::memset(room.data(), 0, chunk.bytes);
      for (const Piece& piece : chunk.pieces) {
        const Part& part = object.parts[piece.part];
        const SourceBytes from = pieces.read(part, piece);
        convert_piece(k, part, piece, from.type, from.rows, room.data() + piece.offset);
      }
      writer->write(id, c, room.span(0, chunk.bytes));
      report.bytes_written += chunk.bytes;
      if (progress) progress(report.bytes_written, total);
    }
    report.tensors += object.parts.size();
  }
  // Rows of before and after a change must not be sealed under one fingerprint.
  if (fingerprint(open_model(folder.path)) != spec.fingerprint) {
    throw Error(
        ErrorCode::kFailed,
        fmt::format("{}: the model changed while its store was made; run again", folder.path))
        .at_path(folder.path);
  }
  writer->commit();
  report.bytes_read = reader.bytes_read();
  return report;
}

}  // namespace headrace::engine
