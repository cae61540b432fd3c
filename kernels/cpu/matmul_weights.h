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

// Of a block of columns, for many rows.
constexpr uint64_t kPartSteps = 256;  // a step: 64 bytes of each panel, four of each row

// How operands become steps. Native ones are multiplied as they lie; the others are widened to
// float32 first, panels part by part.
template <class W>
struct Native {
  using Weights = W;
  static constexpr bool kWidens = false;
  static constexpr Bytes kStepBytes = 64, kStepRowBytes = 4;  // in a.w and a.x
  static uint64_t steps_of(uint64_t k) { return (k + W::kColumns - 1) / W::kColumns; }
  struct Part {};
  static F x(const std::byte* p, uint64_t n) {
    return load_some(reinterpret_cast<const float*>(p), n);
  }
  static TwoColumns columns(const std::byte*) { return {zero(), zero()}; }
};

struct Widened {
  using Weights = F32Weights;
  static constexpr bool kWidens = true;
  static constexpr Bytes kStepBytes = 32;
  struct Part {
    alignas(64) float w[kManyPanels * kPartSteps * kLanes];
  };
};
struct WidenedF16 : Widened {
  static constexpr Bytes kStepRowBytes = 4;
  static uint64_t steps_of(uint64_t k) { return k; }
  static F x(const std::byte* p, uint64_t n) {
    return load_some(reinterpret_cast<const float*>(p), n);
  }
  static TwoColumns columns(const std::byte* w) { return load_f16_pairs(w); }
};
struct WidenedBF16 : Widened {
  static constexpr Bytes kStepRowBytes = 2;
  static uint64_t steps_of(uint64_t k) { return (k + 1) / 2 * 2; }  // x is padded to pairs
  static F x(const std::byte* p, uint64_t n) {
    return load_bf16_some(reinterpret_cast<const uint16_t*>(p), n);
  }
  static TwoColumns columns(const std::byte* w) { return load_bf16_columns(w); }
};

}  // namespace
}  // namespace headrace::kernels
