#include "engine/softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace headrace::engine {

namespace {

constexpr size_t kLanes = 16;

// Branch-free, so that the loops below become vector code.
inline double exp_inline(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep0;
  constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double limited = x < -708.0 ? -708.0 : x;
  const double shifted = limited * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (limited - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  // Taylor: the first term left out is r^14 / 14! < 2^-57.
  double p = 1.0 / 6227020800;
  for (const double c : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                         1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    p = p * r + c;
  }
  const uint64_t exponent = std::bit_cast<uint64_t>(shifted) << 52;
  const double value = std::bit_cast<double>(std::bit_cast<uint64_t>(p) + exponent);
  return x < -708.0 ? 0.0 : value;
}

double sum_block(std::span<const float> row, double top, double scale) {
  std::array<double, kLanes> lane{};
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lane[j] += exp_inline((row[i + j] - top) * scale);
  }
  for (; i < row.size(); ++i) lane[i % kLanes] += exp_inline((row[i] - top) * scale);
  double sum = 0;
  for (const double x : lane) sum += x;
  return sum;
}

}  // namespace

double exp_negative(double x) { return exp_inline(x); }

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
                      std::span<double> blocks) {
  double sum = 0;
  for (size_t begin = 0, b = 0; begin < row.size(); begin += kSumBlock, ++b) {
    const double part =
        sum_block(row.subspan(begin, std::min(kSumBlock, row.size() - begin)), top, scale);
    if (!blocks.empty()) blocks[b] = part;
    sum += part;
  }
  return sum;
}

double log_sum_exp(std::span<const float> row) {
  const double top = peak_of(row).value;
  return top + std::log(sum_of_weights(row, top, 1));
}

}  // namespace headrace::engine
