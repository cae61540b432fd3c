#include "engine/kernel_rates.h"

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/error.h"
#include "core/half.h"
#include "core/random.h"

namespace headrace::engine {

namespace {

using kernels::kKvBlockTokens;

// Larger than the last cache of most machines.
constexpr Bytes kPoolBytes = 512 * kMiB;

template <typename Body>
double seconds_of(const Body& body) {
  const uint64_t begin = steady_clock().now_ns();
  body();
  return static_cast<double>(steady_clock().now_ns() - begin) * 1e-9;
}

// Small numbers that are finite in every type that they are read as.
void fill(const Arena& arena, ThreadPool& pool) {
  arena.touch(pool.threads());
  Random random(1);
  uint32_t words[4096];
  for (uint32_t& word : words) word = (random.next_u32() & 0x807f807fu) | 0x3c003c00u;
  for (Bytes at = 0; at < arena.size(); at += sizeof words) {
    std::memcpy(arena.data() + at, words, sizeof words);
  }
}

uint64_t sum_of(const std::byte* data, Bytes bytes) {
  typedef uint64_t Words __attribute__((vector_size(64)));
  const Words* words = reinterpret_cast<const Words*>(data);
  Words sum[4] = {};
  for (size_t i = 0; i < bytes / sizeof(Words); i += 4) {
    for (size_t j = 0; j < 4; ++j) sum[j] += words[i + j];
  }
  sum[0] += sum[1] + sum[2] + sum[3];
  return sum[0][0] + sum[0][5];
}

}  // namespace

Bytes ProductShape::weight_bytes() const {
  return (n + kernels::kPanelRows - 1) / kernels::kPanelRows * kernels::panel_bytes(type, k);
}

Bytes AttentionShape::kv_bytes() const {
  return sequences * ((tokens + kKvBlockTokens - 1) / kKvBlockTokens) *
         kernels::kv_layer_block_bytes(kv_type, kv_heads, head_dim);
}

double AttentionShape::flops() const {
  const double seen = static_cast<double>(rows_each) *
                      (static_cast<double>(tokens) - (static_cast<double>(rows_each) - 1) / 2);
  return 4 * static_cast<double>(sequences * kv_heads * group * head_dim) * seen;
}

KernelTimer::KernelTimer(const kernels::Kernels& kernels, ThreadPool& pool)
    : kernels_(kernels), pool_(pool), arena_(kPoolBytes) {
  fill(arena_, pool);
}

Bytes KernelTimer::next(Bytes bytes) {
  HEADRACE_ASSERT(bytes <= arena_.size(), "the shape is larger than the memory of the benchmark");
  if (at_ + bytes > arena_.size()) at_ = 0;
  const Bytes begin = at_;
  at_ += round_up(bytes, 4096);
  return begin;
}

double KernelTimer::read_bytes_per_s() { return read_rate(pool_, arena_.span(0, arena_.size())); }

double KernelTimer::product_s(const ProductShape& shape) {
  const Bytes x_floats = shape.m * (shape.k + 1);
  if (x_.size() < x_floats) x_.resize(x_floats);
  if (y_.size() < shape.m * shape.n) y_.resize(shape.m * shape.n);
  if (shape.type == DType::kBF16) {
    auto* narrow = reinterpret_cast<uint16_t*>(x_.data());
    std::fill_n(narrow, shape.m * (shape.k + 1), f32_to_bf16(0.5f));
  } else {
    std::fill_n(x_.data(), x_floats, 0.5f);
  }
  const std::byte* w = arena_.data() + next(shape.weight_bytes());
  return seconds_of([&] {
    kernels_.matmul(pool_, {.x = x_.data(),
                            .w = w,
                            .w_type = shape.type,
                            .m = shape.m,
                            .k = shape.k,
                            .n = shape.n,
                            .y = y_.data(),
                            .y_stride = shape.n});
  });
}

double KernelTimer::attention_s(const AttentionShape& shape) {
  const uint64_t heads = shape.kv_heads * shape.group, rows = shape.sequences * shape.rows_each;
  const uint64_t width = heads * shape.head_dim;
  const Bytes block = kernels::kv_layer_block_bytes(shape.kv_type, shape.kv_heads, shape.head_dim);
  const uint64_t blocks = (shape.tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  std::vector<std::vector<std::byte*>> lists(shape.sequences);
  std::vector<kernels::SequenceKv> sequences;
  for (auto& list : lists) {
    for (uint64_t b = 0; b < blocks; ++b) list.push_back(arena_.data() + next(block));
    sequences.push_back({list.data()});
  }
  std::vector<uint32_t> sequence(rows);
  std::vector<int32_t> positions(rows);
  for (uint64_t row = 0; row < rows; ++row) {
    sequence[row] = static_cast<uint32_t>(row / shape.rows_each);
    positions[row] = static_cast<int32_t>(shape.tokens - shape.rows_each + row % shape.rows_each);
  }
  x_.assign(rows * width, 0.1f);
  if (y_.size() < rows * width) y_.resize(rows * width);
  return seconds_of([&] {
    kernels_.attention(pool_, {.q = x_.data(),
                               .q_stride = width,
                               .out = y_.data(),
                               .sequence = sequence.data(),
                               .positions = positions.data(),
                               .sequences = sequences.data(),
                               .layer_offset = 0,
                               .kv_type = shape.kv_type,
                               .rows = rows,
                               .heads = heads,
                               .kv_heads = shape.kv_heads,
                               .head_dim = shape.head_dim,
                               .scale = 0.1f,
                               .window = 0});
  });
}

double read_rate(ThreadPool& pool, std::span<const std::byte> memory) {
  constexpr Bytes kPiece = 1 * kMiB;
  const Bytes pieces = memory.size() / kPiece;
  if (pieces == 0) return 0;
  std::vector<uint64_t> sums(pieces);
  const double seconds = seconds_of([&] {
    pool.run(static_cast<uint32_t>(pieces),
             [&](uint32_t piece) { sums[piece] = sum_of(memory.data() + piece * kPiece, kPiece); });
  });
  // The compiler may leave out no read whose sum it has to show.
  asm volatile("" : : "r"(sums.data()) : "memory");
  return static_cast<double>(pieces * kPiece) / seconds;
}

double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  const size_t middle = samples.size() / 2;
  std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(middle),
                   samples.end());
  return samples[middle];
}

}  // namespace headrace::engine
