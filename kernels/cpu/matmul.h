// Product with a panel matrix, y[m, n] = x[m, :] . w[n, :].
//
// A tile holds the sums of P panels (16 P outputs) and R rows in registers and walks columns in
// order; each sum is one chain, so parallelism of instructions comes from many sums, never from
// splitting K. Few rows, here: one tile walks all columns, bounded by reading the weights. Many
// rows, in matmul_many.h: bounded by FMA, blocked for the caches.
#pragma once

#include "kernels/cpu/matmul_many.h"
#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

struct Tile {
  const std::byte* w;  // the first panel
  Bytes panel_bytes;
  const std::byte* x;  // the first row
  Bytes x_bytes;       // between rows
  uint64_t steps;      // full ones
  bool odd_column;     // one more column after them
  float* y;
  uint64_t y_stride;
  uint64_t columns;  // of y that exist, at least 1, at most 16 P
};

// Far enough ahead for the latency of memory at a core's share of its bandwidth, near enough to
// leave the streams to the hardware's own prefetch, which does better alone with few of them.
constexpr Bytes kPrefetchBytes = 512;

template <class W, int P, int R>
inline void run_tile(const Tile& t) {
  F sum[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) sum[r][p] = zero();
  }
  const std::byte* w = t.w;
  const std::byte* x = t.x;
  for (uint64_t s = 0; s < t.steps; ++s) {
    typename W::Panel panel[P];
    for (int p = 0; p < P; ++p) {
      panel[p] = W::panel(w + p * t.panel_bytes);
      __builtin_prefetch(w + p * t.panel_bytes + kPrefetchBytes);
    }
    for (int r = 0; r < R; ++r) {
      const typename W::Row row = W::row(x + r * t.x_bytes);
      for (int p = 0; p < P; ++p) sum[r][p] = W::accumulate(sum[r][p], panel[p], row);
    }
    w += 64;
    x += W::kRowBytes;
  }
  if (t.odd_column) {
    for (int p = 0; p < P; ++p) {
      const typename W::Panel panel = W::panel(w + p * t.panel_bytes);
      for (int r = 0; r < R; ++r)
        sum[r][p] = W::accumulate_last(sum[r][p], panel, x + r * t.x_bytes);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      const uint64_t left = t.columns > p * kLanes ? t.columns - p * kLanes : 0;
      store_some(t.y + r * t.y_stride + p * kLanes, sum[r][p], least(left, kLanes));
    }
  }
}

// R rows, `panels` panels from t.w on: P at a time, the rest one by one.
template <class W, int R>
inline void run_panels(Tile t, uint64_t panels) {
  constexpr int kP = tile_panels(R);
  while (panels > 0) {
    const uint64_t taken = panels >= kP ? kP : 1;
    Tile one = t;
    one.columns = least(t.columns, taken * kLanes);
    if (taken == kP) {
      run_tile<W, kP, R>(one);
    } else {
      run_tile<W, 1, R>(one);
    }
    t.w += taken * t.panel_bytes;
    t.y += taken * kLanes;
    t.columns -= one.columns;
    panels -= taken;
  }
}

template <class W>
inline void run_rows(const Tile& t, uint64_t panels, uint64_t rows) {
  static_assert(kTileRows <= 6);
  if constexpr (kTileRows >= 6) {
    if (rows == 6) return run_panels<W, 6>(t, panels);
    if (rows == 5) return run_panels<W, 5>(t, panels);
  }
  if constexpr (kTileRows >= 4) {
    if (rows == 4) return run_panels<W, 4>(t, panels);
    if (rows == 3) return run_panels<W, 3>(t, panels);
  }
  if (rows == 2) return run_panels<W, 2>(t, panels);
  run_panels<W, 1>(t, panels);
}

constexpr uint64_t kGroup = 4;  // panels that a thread takes at a time

inline uint32_t groups_of(const MatmulArgs& a) {
  return static_cast<uint32_t>((panels_of(a) + kGroup - 1) / kGroup);
}

// Panels [kGroup group, kGroup (group + 1)) of a product of few rows.
template <class W>
inline void multiply_group(const MatmulArgs& a, uint32_t group) {
  const uint64_t first = group * kGroup;
  const uint64_t steps = a.k / W::kColumns;
  const bool odd = a.k % W::kColumns != 0;
  const Bytes panel_size = (steps + odd) * 64;
  const Tile t{.w = a.w + first * panel_size,
               .panel_bytes = panel_size,
               .x = static_cast<const std::byte*>(a.x),
               .x_bytes = (odd && W::kRowBytes == 4 ? steps + 1 : steps) * W::kRowBytes +
                          (odd && W::kRowBytes == 8 ? 4 : 0),
               .steps = steps,
               .odd_column = odd,
               .y = a.y + first * kLanes,
               .y_stride = a.y_stride,
               .columns = least(a.n - first * kLanes, kGroup * kLanes)};
  run_rows<W>(t, least(kGroup, panels_of(a) - first), a.m);
}

// Products of few rows with weights of one type, at most kProductsMax of them, as one loop over the
// groups of all.
template <class W>
inline void multiply_few(ThreadPool& pool, const MatmulArgs* products, uint32_t count) {
  uint32_t first[kProductsMax + 1];  // group of each product; the last is their number
  first[0] = 0;
  uint64_t work = 0;
  for (uint32_t i = 0; i < count; ++i) {
    first[i + 1] = first[i] + (products[i].m == 0 ? 0 : groups_of(products[i]));
    work += work_of(products[i]);
  }
  for_turns(pool, first[count], work, [&](uint32_t turn) {
    const uint32_t product = product_of(first, count, turn);
    multiply_group<W>(products[product], turn - first[product]);
  });
}

inline bool is_few(const MatmulArgs& a) { return a.m <= kTileRows || a.k == 0; }

inline void multiply_few(ThreadPool& pool, DType type, const MatmulArgs* products, uint32_t count) {
  if (type == DType::kF32) return multiply_few<F32Weights>(pool, products, count);
  if (type == DType::kBF16) return multiply_few<BF16Weights>(pool, products, count);
  multiply_few<F16Weights>(pool, products, count);
}

void matmul_each(ThreadPool& pool, const MatmulEachArgs& a) {
  for (uint32_t i = 0; i < a.count;) {
    const MatmulArgs* const first = a.products + i;
    const auto is_alike = [&](const MatmulArgs& other) {
      return is_few(other) == is_few(*first) && other.w_type == first->w_type;
    };
    uint32_t count = 1;
    while (i + count < a.count && count < kProductsMax && is_alike(first[count])) ++count;
    if (is_few(*first)) {
      multiply_few(pool, first->w_type, first, count);
    } else {
      multiply_many(pool, first->w_type, first, count);
    }
    i += count;
  }
}

void matmul(ThreadPool& pool, const MatmulArgs& a) { matmul_each(pool, {&a, 1}); }

}  // namespace
}  // namespace headrace::kernels
