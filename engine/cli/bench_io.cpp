// `headrace bench io`: reading as a run reads, beside the disk's own rate in the same minute.
#include "engine/bench_io.h"

#include <fmt/format.h>

#include <filesystem>

#include "engine/cli/bench.h"
#include "engine/limits.h"

namespace headrace::engine::cli {

namespace {

struct Flags {
  std::string path, io_engine = "auto", size = "1GiB", chunk = "2MiB";
  unsigned rounds = 5;
  bool no_write = false;
};

// Chunks are read into one piece of memory each; the store's own are at most this large.
constexpr Bytes kChunkMost = 64 * kMiB;

BenchIoOptions options_of(const Flags& flags) {
  BenchIoOptions options{.path = flags.path,
                         .bytes = parse_size(flags.size, "--size"),
                         .chunk_bytes = parse_size(flags.chunk, "--chunk"),
                         .io_engine = flags.io_engine,
                         .rounds = flags.rounds,
                         .write = !flags.no_write,
                         .tick = throw_if_stopped};
  const Bytes chunk = options.chunk_bytes;
  if (chunk == 0 || chunk % kBlock != 0 || chunk > kChunkMost || options.bytes < chunk) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--chunk: {} bytes; it must be a multiple of {} up to {}, and --size at "
                    "least one chunk",
                    chunk, kBlock, format_bytes(kChunkMost)))
        .at_field("--chunk");
  }
  if (options.path.empty()) {
    options.path = default_cache_root() + "/stores";
    std::filesystem::create_directories(options.path);
  }
  return options;
}

std::string text_of(const BenchIo& b) {
  std::string text = fmt::format(
      "{}\n{} requests of {}, {} in flight, through {}\n"
      "read    {:7.3f} GB/s ({:3.0f} % of the requests alone: {:.3f} GB/s)\n"
      "        {:7.2f} ms of processor per GB, and {:.2f} to verify\n",
      b.file, b.direct ? "direct" : "buffered", format_bytes(b.block_bytes), b.depth, b.engine,
      b.read_bytes_per_s * 1e-9, 100 * b.read_bytes_per_s / b.raw_bytes_per_s,
      b.raw_bytes_per_s * 1e-9, b.read_cpu_s_per_gb * 1e3, b.verify_cpu_s_per_gb * 1e3);
  if (b.write_bytes_per_s) {
    text += fmt::format("write   {:7.3f} GB/s, flushed\n", *b.write_bytes_per_s * 1e-9);
  }
  return text;
}

void run(const Flags& flags, const Common& common) {
  const BenchIo b = bench_io(options_of(flags));
  if (!b.note.empty()) log(common, Level::kInfo, b.note);
  if (!common.json) return print_text(text_of(b));
  json::object out{{"file", lossless(b.file)},
                   {"engine", b.engine},
                   {"direct", b.direct},
                   {"bytes", b.bytes},
                   {"block_bytes", b.block_bytes},
                   {"depth", b.depth},
                   {"rounds", flags.rounds},
                   {"read_Bps", b.read_bytes_per_s},
                   {"raw_read_Bps", b.raw_bytes_per_s},
                   {"ratio_of_raw", b.read_bytes_per_s / b.raw_bytes_per_s},
                   {"read_cpu_s_per_GB", b.read_cpu_s_per_gb},
                   {"verify_cpu_s_per_GB", b.verify_cpu_s_per_gb},
                   {"write_Bps", nullptr}};
  if (b.write_bytes_per_s) out["write_Bps"] = *b.write_bytes_per_s;
  print_json(out);
}

}  // namespace

Command add_bench_io(CLI::App& bench, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c = bench.add_subcommand("io", "reading a store as a run does, beside the disk alone");
  c->add_option("--path", flags->path,
                "a file, a store, or a folder to make one in and remove it (default: the cache)");
  c->add_option("--size", flags->size, "read in a round, at most");
  c->add_option("--chunk", flags->chunk, "of a file's or of the bench's own store's chunks");
  c->add_option("--io-engine", flags->io_engine, "auto, io_uring, pread")
      ->envname("HEADRACE_IO_ENGINE");
  c->add_option("--rounds", flags->rounds, "the figures are medians")->check(CLI::Range(1, 1000));
  c->add_flag("--no-write", flags->no_write, "leave writing out where there is a file to read");
  return {c, [flags, &common] { run(*flags, common); }};
}

}  // namespace headrace::engine::cli
