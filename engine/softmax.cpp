#include "engine/softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace headrace::engine {

namespace {

// Some 10 us of work: what waking the threads for is worth.
constexpr size_t kBlocksATask = 8;
constexpr size_t kLanes = 16;  // of a sum
constexpr size_t kAtOnce = 8;  // of them: what of their steps fits the registers of any x86-64

// e^x of N numbers at once, in steps that each go over all of them: so the compiler makes vector
// code of every step, and none waits for the one before it on the same number. The bits of each
// number are the same whatever N.
template <size_t N>
inline void exp_each(std::array<double, N>& x) {
  constexpr double kLeast = -708.0;
  constexpr double kLog2e = 0x1.71547652b82fep0;
  constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  std::array<double, N> shifted, r, p;
  for (size_t j = 0; j < N; ++j) {
    const double limited = x[j] < kLeast ? kLeast : x[j];
    shifted[j] = limited * kLog2e + kRound;
    const double n = shifted[j] - kRound;
    r[j] = (limited - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  }
  // Taylor: the first term left out is r^14 / 14! < 2^-57.
  p.fill(1.0 / 6227020800);
  for (const double c : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                         1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    for (size_t j = 0; j < N; ++j) p[j] = p[j] * r[j] + c;
  }
  for (size_t j = 0; j < N; ++j) {
    const uint64_t exponent = std::bit_cast<uint64_t>(shifted[j]) << 52;
    const double value = std::bit_cast<double>(std::bit_cast<uint64_t>(p[j]) + exponent);
    x[j] = x[j] < kLeast ? 0.0 : value;
  }
}

double sum_block(std::span<const float> row, double top, double scale) {
  std::array<double, kLanes> lane{};
  std::array<double, kAtOnce> x;
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t at = 0; at < kLanes; at += kAtOnce) {
      for (size_t j = 0; j < kAtOnce; ++j) x[j] = (row[i + at + j] - top) * scale;
      exp_each(x);
      for (size_t j = 0; j < kAtOnce; ++j) lane[at + j] += x[j];
    }
  }
  for (; i < row.size(); ++i) lane[i % kLanes] += exp_negative((row[i] - top) * scale);
  double sum = 0;
  for (const double part : lane) sum += part;
  return sum;
}

}  // namespace

double exp_negative(double x) {
  std::array<double, 1> one{x};
  exp_each(one);
  return one[0];
}

Peak peak_of(std::span<const float> row) {
  constexpr size_t kBlock = 512;  // stays in the first cache while it is looked at twice
  Peak peak{-std::numeric_limits<float>::infinity(), 0};
  for (size_t begin = 0; begin < row.size(); begin += kBlock) {
    const auto block = row.subspan(begin, std::min(kBlock, row.size() - begin));
    // Without early exits and with the bits as integers the compiler makes vector code of it.
    int32_t most = std::numeric_limits<int32_t>::min(), strange = 0;
    for (const float x : block) {
      const int32_t bits = std::bit_cast<int32_t>(x);
      const int32_t ordered = bits ^ ((bits >> 31) & 0x7fffffff);
      most = ordered > most ? ordered : most;
      strange |= !(x < std::numeric_limits<float>::infinity());
    }
    if (strange != 0) {
      throw Error(ErrorCode::kFailed,
                  "logits: not a number; the weights or their precision are damaged: check the "
                  "model with `headrace store verify`");
    }
    const float value = std::bit_cast<float>(most ^ ((most >> 31) & 0x7fffffff));
    if (!(value > peak.value)) continue;
    const auto at = std::find(block.begin(), block.end(), value);  // -0 equals 0
    peak = {value, static_cast<uint32_t>(begin + static_cast<size_t>(at - block.begin()))};
  }
  return peak;
}

double sum_of_weights(std::span<const float> row, double top, double scale,
                      std::span<double> blocks, ThreadPool* pool) {
  const auto part = [&](size_t block) {
    const size_t begin = block * kSumBlock;
    return sum_block(row.subspan(begin, std::min(kSumBlock, row.size() - begin)), top, scale);
  };
  const size_t count = (row.size() + kSumBlock - 1) / kSumBlock;
  if (pool != nullptr && pool->threads() > 1 && !blocks.empty()) {
    const size_t tasks = (count + kBlocksATask - 1) / kBlocksATask;
    pool->run(static_cast<uint32_t>(tasks), [&](uint32_t task) {
      const size_t end = std::min(count, (task + size_t{1}) * kBlocksATask);
      for (size_t b = task * kBlocksATask; b < end; ++b) blocks[b] = part(b);
    });
    return std::accumulate(blocks.begin(), blocks.begin() + static_cast<ptrdiff_t>(count), 0.0);
  }
  double sum = 0;
  for (size_t b = 0; b < count; ++b) {
    const double here = part(b);
    if (!blocks.empty()) blocks[b] = here;
    sum += here;
  }
  return sum;
}

double log_sum_exp(std::span<const float> row) {
  const double top = peak_of(row).value;
  return top + std::log(sum_of_weights(row, top, 1));
}

}  // namespace headrace::engine
