// Writing this pass's keys and values into their blocks.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

// How keys and values are stored; arithmetic is in float32.
struct F32Kv {
  using Element = float;
  static F load(const float* p, uint64_t count) { return load_some(p, count); }
  static void store(float* p, F a, uint64_t count) { store_some(p, a, count); }
};
struct BF16Kv {
  using Element = uint16_t;
  static F load(const uint16_t* p, uint64_t count) { return load_bf16_some(p, count); }
  static void store(uint16_t* p, F a, uint64_t count) { store_bf16_some(p, a, count); }
};

template <class Kv>
inline void append(ThreadPool& pool, const KvAppendArgs& a) {
  using Element = typename Kv::Element;
  const uint64_t to_values = a.kv_heads * kKvBlockTokens * a.head_dim;
  for_rows(pool, a.rows, 2 * a.kv_heads * a.head_dim, [&](uint64_t row) {
    const uint64_t position = static_cast<uint64_t>(a.positions[row]);
    std::byte* block = a.sequences[a.sequence[row]].blocks[position / kKvBlockTokens];
    Element* layer = reinterpret_cast<Element*>(block + a.layer_offset);
    for (uint64_t head = 0; head < a.kv_heads; ++head) {
      Element* key = layer + (head * kKvBlockTokens + position % kKvBlockTokens) * a.head_dim;
      const float* k = a.k + row * a.k_stride + head * a.head_dim;
      const float* v = a.v + row * a.v_stride + head * a.head_dim;
      for_lanes(a.head_dim, [&](uint64_t d, uint64_t n) {
        Kv::store(key + d, load_some(k + d, n), n);
        Kv::store(key + to_values + d, load_some(v + d, n), n);
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
