// How keys and values are stored, and the writing of this pass's.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

// Arithmetic is in float32. A head's keys of sixteen tokens lie like a panel: kColumns columns of
// all tokens are one step.
struct F32Kv {
  using Element = float;
  using Keys = F;  // of one step
  static constexpr uint64_t kColumns = 1;
  static Keys keys(const float* p) { return headrace::kernels::load(p); }
  static F accumulate(F sum, Keys k, const float* q) { return fma(set1(q[0]), k, sum); }
  static F last_keys(const float* p) { return headrace::kernels::load(p); }
  static F load(const float* p, uint64_t count) { return load_some(p, count); }
  static void store(float* p, F a, uint64_t count) { store_some(p, a, count); }
};
struct BF16Kv {
  using Element = uint16_t;
  using Keys = TwoColumns;
  static constexpr uint64_t kColumns = 2;
  static Keys keys(const uint16_t* p) {
    return load_bf16_columns(reinterpret_cast<const std::byte*>(p));
  }
  static F accumulate(F sum, Keys k, const float* q) {
    return fma(set1(q[1]), k.odd, fma(set1(q[0]), k.even, sum));
  }
  static F last_keys(const uint16_t* p) { return load_bf16(p); }  // of an odd head dimension
  static F load(const uint16_t* p, uint64_t count) { return load_bf16_some(p, count); }
  static void store(uint16_t* p, F a, uint64_t count) { store_bf16_some(p, a, count); }
};

template <class Kv>
inline void append(ThreadPool& pool, const KvAppendArgs& a) {
  using Element = typename Kv::Element;
  const uint64_t dim = a.head_dim, to_values = a.kv_heads * kKvBlockTokens * dim;
  const uint64_t paired = dim / Kv::kColumns * Kv::kColumns;
  for_rows(pool, a.rows, 2 * a.kv_heads * dim, [&](uint64_t row) {
    const uint64_t position = static_cast<uint64_t>(a.positions[row]);
    std::byte* block = a.sequences[a.sequence[row]].blocks[position / kKvBlockTokens];
    Element* layer = reinterpret_cast<Element*>(block + a.layer_offset);
    const uint64_t token = position % kKvBlockTokens, lane = token % kLanes;
    for (uint64_t head = 0; head < a.kv_heads; ++head) {
      Element* keys = layer + (head * kKvBlockTokens + token - lane) * dim;
      Element* value = layer + to_values + (head * kKvBlockTokens + token) * dim;
      const float* k = a.k + row * a.k_stride + head * dim;
      const float* v = a.v + row * a.v_stride + head * dim;
      for_lanes(dim, [&](uint64_t d, uint64_t n) {
        Kv::store(value + d, load_some(v + d, n), n);
        Element some[kLanes];
        Kv::store(some, load_some(k + d, n), n);
        for (uint64_t i = 0; i < n; ++i) {
          const uint64_t column = d + i, step = column / Kv::kColumns * Kv::kColumns;
          const uint64_t at = column < paired ? lane * Kv::kColumns + column - step : lane;
          keys[step * kLanes + at] = some[i];
        }
      });
    }
  });
}

void kv_append(ThreadPool& pool, const KvAppendArgs& a) {
  if (a.kv_type == DType::kF32) return append<F32Kv>(pool, a);
  append<BF16Kv>(pool, a);
}

}  // namespace
}  // namespace headrace::kernels
