// Measures the kernels that decide the speed of generation, beside the read bandwidth of the
// machine at the same moment: products for 1 to 256 rows and attention.
//
//   kernels_bench [--isa NAME] [--threads N] [--repeats N]
//
// Best of several repeats, because other work on the machine only ever makes things slower.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/half.h"
#include "core/random.h"
#include "kernels/table.h"

namespace headrace::kernels {
namespace {

// Larger than the last cache, so that every repeat reads memory.
constexpr Bytes kPoolBytes = 512 * kMiB;

struct Bench {
  const Kernels& kernels;
  ThreadPool pool;
  int repeats;
  Arena arena{kPoolBytes};
  double read_bandwidth = 0;  // bytes per second, the best seen so far
};

// Shortest of several runs, in seconds.
template <typename Body>
double best(const Bench& bench, const Body& body) {
  double shortest = 1e30;
  for (int i = 0; i < bench.repeats; ++i) {
    const uint64_t begin = steady_clock().now_ns();
    body(i);
    const double seconds = static_cast<double>(steady_clock().now_ns() - begin) * 1e-9;
    if (seconds < shortest) shortest = seconds;
  }
  return shortest;
}

// Sums the whole pool of memory with all threads.
void measure_read_bandwidth(Bench& bench) {
  constexpr Bytes kPiece = 4 * kMiB;
  std::vector<uint64_t> sums(kPoolBytes / kPiece);
  const double seconds = best(bench, [&](int) {
    bench.pool.run(static_cast<uint32_t>(sums.size()), [&](uint32_t piece) {
      typedef uint64_t Words __attribute__((vector_size(64)));
      const Words* words = reinterpret_cast<const Words*>(bench.arena.data() + piece * kPiece);
      Words sum[4] = {};
      for (size_t i = 0; i < kPiece / sizeof(Words); i += 4) {
        for (size_t j = 0; j < 4; ++j) sum[j] += words[i + j];
      }
      sum[0] += sum[1] + sum[2] + sum[3];
      sums[piece] = sum[0][0] + sum[0][5];
    });
  });
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  if (total == 1) fmt::print(" ");  // the sums are needed: nothing may be left out
  bench.read_bandwidth = std::max(bench.read_bandwidth, kPoolBytes / seconds);
}

void bench_matmul(Bench& bench, DType type, uint64_t m) {
  constexpr uint64_t kN = 11008, kK = 4096;  // the widest product of a 7B model
  const Bytes matrix = kN / kPanelRows * panel_bytes(type, kK);
  const uint64_t copies = kPoolBytes / matrix;  // used in turn, so that caches stay cold
  std::vector<float> x(m * kK, 0.5f), y(m * kN);
  std::vector<uint16_t> narrow(m * kK, f32_to_bf16(0.5f));
  const void* input = type == DType::kBF16 ? static_cast<const void*>(narrow.data()) : x.data();
  const double seconds = best(bench, [&](int i) {
    bench.kernels.matmul(bench.pool,
                         {.x = input,
                          .w = bench.arena.data() + static_cast<uint64_t>(i) % copies * matrix,
                          .w_type = type,
                          .m = m,
                          .k = kK,
                          .n = kN,
                          .y = y.data(),
                          .y_stride = kN});
  });
  const double bandwidth = static_cast<double>(matrix) / seconds;
  fmt::print(
      "matmul     {:8} m={:<4} {:8.3f} ms {:7.1f} GB/s ({:3.0f} % of read) {:8.1f} GFLOP/s\n",
      name_of(type), m, seconds * 1e3, bandwidth * 1e-9, 100 * bandwidth / bench.read_bandwidth,
      2e-9 * static_cast<double>(m * kN * kK) / seconds);
}

// Eight sequences (decode), or the last `rows` tokens of one (prefill).
void bench_attention(Bench& bench, DType type, uint64_t group, bool decode) {
  constexpr uint64_t kKvHeads = 8, kDim = 128, kTokens = 4096;
  const uint64_t heads = kKvHeads * group, rows = decode ? 8 : 256;
  const Bytes block_bytes = kv_layer_block_bytes(type, kKvHeads, kDim);
  const uint64_t blocks = kTokens / kKvBlockTokens;
  std::vector<std::vector<std::byte*>> lists(decode ? rows : 1);
  std::vector<SequenceKv> sequences;
  Bytes at = 0;
  for (auto& list : lists) {
    for (uint64_t b = 0; b < blocks; ++b, at += block_bytes) {
      list.push_back(bench.arena.data() + at % (kPoolBytes - block_bytes) / 64 * 64);
    }
    sequences.push_back({list.data()});
  }
  std::vector<uint32_t> sequence(rows);
  std::vector<int32_t> positions(rows);
  for (uint32_t row = 0; row < rows; ++row) {
    sequence[row] = decode ? row : 0;
    positions[row] = static_cast<int32_t>(decode ? kTokens - 1 : kTokens - rows + row);
  }
  std::vector<float> q(rows * heads * kDim, 0.1f), out(q.size());
  const double seconds = best(bench, [&](int) {
    bench.kernels.attention(bench.pool, {.q = q.data(),
                                         .q_stride = heads * kDim,
                                         .out = out.data(),
                                         .sequence = sequence.data(),
                                         .positions = positions.data(),
                                         .sequences = sequences.data(),
                                         .layer_offset = 0,
                                         .kv_type = type,
                                         .rows = rows,
                                         .heads = heads,
                                         .kv_heads = kKvHeads,
                                         .head_dim = kDim,
                                         .scale = 0.1f,
                                         .window = 0});
  });
  const double bandwidth = static_cast<double>(lists.size() * blocks * block_bytes) / seconds;
  fmt::print("{:10} {:8} H/G={:<2} {:8.3f} ms {:7.1f} GB/s ({:3.0f} % of read) {:8.1f} GFLOP/s\n",
             decode ? "decode" : "prefill", name_of(type), group, seconds * 1e3, bandwidth * 1e-9,
             100 * bandwidth / bench.read_bandwidth,
             4e-9 * static_cast<double>(rows * heads * kDim * kTokens) / seconds);
}

// Small numbers that are finite in every type that the benchmarks read them as.
void fill(const Arena& arena) {
  arena.touch();
  Random random(1);
  uint32_t words[4096];
  for (uint32_t& word : words) word = (random.next_u32() & 0x807f807fu) | 0x3c003c00u;
  for (Bytes at = 0; at < arena.size(); at += sizeof words) {
    std::memcpy(arena.data() + at, words, sizeof words);
  }
}

int number(const char* text, const char* flag) {
  int value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc{} || *end != 0 || value < 1 || value > 1024) {
    throw Error(ErrorCode::kUsage,
                std::string(flag) + ": '" + text + "' is no number from 1 to 1024");
  }
  return value;
}

int run(int argc, char** argv) {
  std::string isa = "auto";
  int threads = 2, repeats = 9;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--isa") {
      isa = argv[i + 1];
    } else if (flag == "--threads") {
      threads = number(argv[i + 1], argv[i]);
    } else if (flag == "--repeats") {
      repeats = number(argv[i + 1], argv[i]);
    } else {
      throw Error(ErrorCode::kUsage,
                  std::string(flag) + ": unknown flag; see the top of the source");
    }
  }
  Bench bench{kernels_for(isa), ThreadPool(static_cast<unsigned>(threads)), repeats};
  fill(bench.arena);
  measure_read_bandwidth(bench);
  fmt::print("table {}, {} threads, best of {}; memory reads at {:.1f} GB/s\n", bench.kernels.isa,
             threads, repeats, bench.read_bandwidth * 1e-9);
  for (DType type : {DType::kBF16, DType::kF32, DType::kF16}) {
    measure_read_bandwidth(bench);
    for (uint64_t m : {1, 4, 16, 64, 256}) bench_matmul(bench, type, m);
  }
  for (DType type : {DType::kBF16, DType::kF32}) {
    measure_read_bandwidth(bench);
    for (uint64_t group : {1, 4, 8}) {
      bench_attention(bench, type, group, true);
      bench_attention(bench, type, group, false);
    }
  }
  return 0;
}

}  // namespace
}  // namespace headrace::kernels

int main(int argc, char** argv) {
  try {
    return headrace::kernels::run(argc, argv);
  } catch (const headrace::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
