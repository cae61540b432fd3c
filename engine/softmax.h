// Exponentials and their sums over a row of logits, in float64 and in one fixed order: the bits
// depend on the row alone, and the exponential is our own, so that a draw does not change with the
// C library either. Pure functions.
#pragma once

#include <cstdint>
#include <span>

#include "core/threads.h"

namespace headrace::engine {

struct Peak {
  float value = 0;
  uint32_t id = 0;  // the lowest of equals
};

// The largest value of a row. Throws Error(kFailed) when it holds a NaN or +infinity.
Peak peak_of(std::span<const float> row);

// e^x for x <= 0, within two units in the last place; 0 below -708.
double exp_negative(double x);

inline constexpr size_t kSumBlock = 256;  // entries of a partial sum of weights

// Sum of e^((x - top) * scale) over a row, every x <= top. Where `blocks` is not empty it receives
// the sum of every kSumBlock entries, which `pool`, if there is one, then shares out: the bits are
// the same.
double sum_of_weights(std::span<const float> row, double top, double scale,
                      std::span<double> blocks = {}, ThreadPool* pool = nullptr);

// log(sum(e^x)) of a row.
double log_sum_exp(std::span<const float> row);

}  // namespace headrace::engine
