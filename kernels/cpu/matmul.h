// Product with a panel matrix, y[m, n] = x[m, :] . w[n, :].
//
// A tile holds the sums of P panels (16 P outputs) and R rows in registers and walks columns in
// order; each sum is one chain, so parallelism of instructions comes from many sums, never from
// splitting K. Columns are walked in blocks so that the panels of a group stay in the L2 cache
// while all rows pass; between blocks the sums rest in y, as float32, which changes no bit.
//
// One row: bounded by reading the weights; the tile prefetches. Many rows: bounded by FMA.
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

struct Tile {
  const std::byte* w;  // the block's first step in the first panel
  Bytes panel_bytes;
  const std::byte* x;  // the block's first column in the first row
  Bytes x_bytes;       // between rows
  uint64_t steps;      // full ones
  bool odd_column;     // one more column after them
  bool first;          // sums begin at zero; otherwise they are in y
  Bytes prefetch;      // how far ahead; 0: not at all
  float* y;
  uint64_t y_stride;
  uint64_t columns;  // of y that exist, at least 1, at most 16 P
};

template <int P, int R>
inline void load_sums(const Tile& t, F (&sum)[R][P]) {
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      const uint64_t left = t.columns > p * kLanes ? t.columns - p * kLanes : 0;
      sum[r][p] = t.first ? zero() : load_some(t.y + r * t.y_stride + p * kLanes, least(left, 16));
    }
  }
}

template <int P, int R>
inline void store_sums(const Tile& t, const F (&sum)[R][P]) {
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      const uint64_t left = t.columns > p * kLanes ? t.columns - p * kLanes : 0;
      store_some(t.y + r * t.y_stride + p * kLanes, sum[r][p], least(left, 16));
    }
  }
}

// One tile of rows reads the weights once: far enough ahead for the latency of memory at a core's
// share of its bandwidth, near enough to stay in L1 (four panels: 4 KiB).
constexpr Bytes kPrefetchBytes = 1024;

template <class W, int P, int R>
inline void run_tile(const Tile& t) {
  F sum[R][P];
  load_sums(t, sum);
  const std::byte* w = t.w;
  const std::byte* x = t.x;
  const auto step = [&](Bytes ahead) __attribute__((always_inline)) {
    typename W::Panel panel[P];
    for (int p = 0; p < P; ++p) {
      panel[p] = W::panel(w + p * t.panel_bytes);
      if (ahead != 0) __builtin_prefetch(w + p * t.panel_bytes + ahead);
    }
    for (int r = 0; r < R; ++r) {
      const typename W::Row row = W::row(x + r * t.x_bytes);
      for (int p = 0; p < P; ++p) sum[r][p] = W::accumulate(sum[r][p], panel[p], row);
    }
    w += 64;
    x += W::kRowBytes;
  };
  if (t.prefetch != 0) {
    for (uint64_t s = 0; s < t.steps; ++s) step(t.prefetch);
  } else {
    for (uint64_t s = 0; s < t.steps; ++s) step(0);
  }
  if (t.odd_column) {
    for (int p = 0; p < P; ++p) {
      const typename W::Panel panel = W::panel(w + p * t.panel_bytes);
      for (int r = 0; r < R; ++r)
        sum[r][p] = W::accumulate_last(sum[r][p], panel, x + r * t.x_bytes);
    }
  }
  store_sums(t, sum);
}

// One block of columns, R rows, `panels` panels from t.w on: P at a time, the rest one by one.
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

// Panels [first, first + panels) for all rows.
template <class W>
inline void run_group(const MatmulArgs& a, uint64_t first, uint64_t panels) {
  constexpr uint64_t kBlockSteps = 256;  // 16 KiB of each panel
  const uint64_t steps = a.k / W::kColumns;
  const bool odd = a.k % W::kColumns != 0;
  // Rows are spread evenly over tiles: eight rows are 4 + 4, not 6 + 2.
  const uint64_t row_tiles = (a.m + kTileRows - 1) / kTileRows;
  const uint64_t block_steps = row_tiles == 1 ? steps + 1 : kBlockSteps;
  const uint64_t blocks = steps / block_steps + 1;  // the last one may be empty but for `odd`
  const Bytes x_bytes = (odd && W::kRowBytes == 4 ? steps + 1 : steps) * W::kRowBytes +
                        (odd && W::kRowBytes == 8 ? 4 : 0);
  const Bytes panel_size = (steps + odd) * 64;
  for (uint64_t block = 0; block < blocks; ++block) {
    const uint64_t begin = block * block_steps;
    const bool last = block + 1 == blocks;
    if (last && begin == steps && !odd && block != 0) break;
    for (uint64_t tile = 0; tile < row_tiles; ++tile) {
      const uint64_t row = a.m * tile / row_tiles;
      const uint64_t rows = a.m * (tile + 1) / row_tiles - row;
      // With several tiles the first ones bring the next block while they compute; the later ones
      // find it there.
      const Bytes ahead = row_tiles == 1 ? kPrefetchBytes : tile < 4 ? block_steps * 64 : 0;
      const Tile t{.w = a.w + first * panel_size + begin * 64,
                   .panel_bytes = panel_size,
                   .x = static_cast<const std::byte*>(a.x) + row * x_bytes + begin * W::kRowBytes,
                   .x_bytes = x_bytes,
                   .steps = least(block_steps, steps - begin),
                   .odd_column = last && odd,
                   .first = block == 0,
                   .prefetch = ahead,
                   .y = a.y + row * a.y_stride + first * kLanes,
                   .y_stride = a.y_stride,
                   .columns = least(a.n - first * kLanes, panels * kLanes)};
      run_rows<W>(t, panels, rows);
    }
  }
}

template <class W>
inline void multiply(ThreadPool& pool, const MatmulArgs& a) {
  if (a.m == 0) return;
  const uint64_t panels = (a.n + kLanes - 1) / kLanes;
  // A group is what one thread takes at a time: many for balance, large so that rows of x that a
  // thread has in its cache meet many panels.
  constexpr uint64_t kPanelsMost = 16, kPanelsLeast = 4, kGroupsPerThread = 4;
  uint64_t group = panels / (pool.threads() * kGroupsPerThread) / kPanelsLeast * kPanelsLeast;
  group = group < kPanelsLeast ? kPanelsLeast : least(group, kPanelsMost);
  if (a.m <= kTileRows) group = kPanelsLeast;
  const uint64_t groups = (panels + group - 1) / group;
  const auto body = [&](uint32_t i) {
    run_group<W>(a, i * group, least(group, panels - i * group));
  };
  constexpr uint64_t kWorth = 65536;  // products: a few microseconds
  if (pool.threads() == 1 || groups == 1 || a.m * a.n * a.k < kWorth) {
    for (uint32_t i = 0; i < groups; ++i) body(i);
  } else {
    pool.run(static_cast<uint32_t>(groups), body);
  }
}

void matmul(ThreadPool& pool, const MatmulArgs& a) {
  if (a.w_type == DType::kF32) return multiply<F32Weights>(pool, a);
  if (a.w_type == DType::kBF16) return multiply<BF16Weights>(pool, a);
  multiply<F16Weights>(pool, a);
}

}  // namespace
}  // namespace headrace::kernels
