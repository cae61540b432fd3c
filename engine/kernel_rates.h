// Times single kernels on data that is in memory, not in a cache, beside the read bandwidth of the
// same minute: what `headrace bench kernels` and tests/bench/kernels_bench.cpp report. One sample a
// call, so that the caller can interleave what it compares.
#pragma once

#include <span>
#include <vector>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/table.h"

namespace headrace::engine {

struct ProductShape {
  DType type = DType::kBF16;  // of the weights
  uint64_t m = 1, k = 4096, n = 11008;

  double flops() const { return 2.0 * static_cast<double>(m * k * n); }
  Bytes weight_bytes() const;
};

// `sequences` of `tokens` each; the last `rows_each` of every one are attended from.
struct AttentionShape {
  DType kv_type = DType::kBF16;
  uint64_t sequences = 1, rows_each = 1, tokens = 4096;
  uint64_t kv_heads = 8, group = 4, head_dim = 128;

  Bytes kv_bytes() const;  // read at least
  double flops() const;    // of what causality leaves
};

// Owns the memory that is read. One thread at a time.
class KernelTimer {
 public:
  KernelTimer(const kernels::Kernels& kernels, ThreadPool& pool);

  double read_bytes_per_s();  // all threads read the memory once
  double product_s(const ProductShape& shape);
  double attention_s(const AttentionShape& shape);

 private:
  Bytes next(Bytes bytes);  // where the next piece begins: round and round, so that it is cold

  const kernels::Kernels& kernels_;
  ThreadPool& pool_;
  Arena arena_;
  Bytes at_ = 0;
  std::vector<float> x_, y_;
};

// Bytes a second at which all threads read `memory` once; more than the caches hold, or it is
// theirs.
double read_rate(ThreadPool& pool, std::span<const std::byte> memory);

double median(std::vector<double> samples);  // 0 of none

}  // namespace headrace::engine
