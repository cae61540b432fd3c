// What the storage types of weights mean to a product: a step over a panel and what goes with it.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

// What one storage type of weights means: kColumns columns of a panel are one step of 64 bytes,
// kRowBytes of x go with it.
struct F32Weights {
  static constexpr uint64_t kColumns = 1, kRowBytes = 4;
  using Panel = F;
  using Row = F;
  static Panel panel(const std::byte* w) { return load(reinterpret_cast<const float*>(w)); }
  static Row row(const std::byte* x) { return set1(*reinterpret_cast<const float*>(x)); }
  static F accumulate(F sum, Panel w, Row x) { return fma(x, w, sum); }
  static F accumulate_last(F sum, Panel w, const std::byte* x) {
    return accumulate(sum, w, row(x));
  }
};

struct BF16Weights {
  static constexpr uint64_t kColumns = 2, kRowBytes = 4;
  using Panel = Pairs;
  using Row = Pairs;
  static Panel panel(const std::byte* w) { return load_bf16_pairs(w); }
  static Row row(const std::byte* x) {
    return broadcast_bf16_pair(reinterpret_cast<const uint16_t*>(x));
  }
  static F accumulate(F sum, Panel w, Row x) { return dot_pairs(sum, w, x); }
  // x is padded to pairs: the last column is a pair like any other.
  static F accumulate_last(F sum, Panel w, const std::byte* x) {
    return accumulate(sum, w, row(x));
  }
};

struct F16Weights {
  static constexpr uint64_t kColumns = 2, kRowBytes = 8;
  using Panel = TwoColumns;
  struct Row {
    F even, odd;
  };
  static Panel panel(const std::byte* w) { return load_f16_pairs(w); }
  static Row row(const std::byte* x) {
    const float* columns = reinterpret_cast<const float*>(x);
    return {set1(columns[0]), set1(columns[1])};
  }
  static F accumulate(F sum, Panel w, Row x) { return fma(x.odd, w.odd, fma(x.even, w.even, sum)); }
  static F accumulate_last(F sum, Panel w, const std::byte* x) {
    return fma(set1(*reinterpret_cast<const float*>(x)), w.even, sum);
  }
};

}  // namespace
}  // namespace headrace::kernels
