// Product of many rows: blocked for the caches (docs/design/005-product.md).
//
// A piece of work is up to kPieceRows rows by up to kPiecePanels panels. Columns are walked in
// blocks: the rows' part of a block is copied to a place of its own, where rows lie at an odd
// number of cache lines (the rows of x often lie at a power of two and would fight for the same few
// lines of L1); then, kManyPanels panels at a time, the panels' part comes to L1 once and all rows
// pass over it in tiles of registers, while the next parts of both are on their way. Between blocks
// sums rest beside the copy, as float32, which changes no bit: a sum is one chain over all columns,
// as in matmul.h.
#pragma once

#include "kernels/cpu/matmul_turns.h"
#include "kernels/cpu/matmul_weights.h"
#include "kernels/cpu/vec.h"
#include "kernels/stack.h"

namespace headrace::kernels {
namespace {

constexpr uint64_t kUnroll = 4;                                // steps
constexpr uint64_t kAskSteps = kPartSteps * 4 / 64 * kUnroll;  // in which a row of x is asked for
constexpr uint64_t kPackedRow = kPartSteps * 4 + 64;
constexpr uint64_t kPieceRows = 72 / kManyRows * kManyRows;
constexpr uint64_t kPiecePanels = 16;

// A thread's own memory, on its stack: it stays in L2.
struct Workplace {
  alignas(64) std::byte x[2][kPieceRows * kPackedRow];         // of this block and the next
  alignas(64) float sums[kPiecePanels * kPieceRows * kLanes];  // [panel][row][lane]
};

struct ManyTile {
  const std::byte* w;
  Bytes panel_bytes;  // between panels of w
  const std::byte* x;
  uint64_t steps;
  const std::byte* ahead;  // where this tile's share of the next part of a.w begins
  Bytes ahead_panel;       // between panels there
  uint64_t ahead_each;     // lines of each panel to ask for every kUnroll steps
  const std::byte* ask;    // rows of x to ask for, a line every kUnroll steps
  Bytes ask_row_bytes;
  uint64_t ask_rows;
  float* sums;       // kPieceRows rows between panels
  bool first, last;  // of the blocks of columns
  float* y;
  uint64_t y_stride, columns;  // of y that exist
};

template <class W, int P, int R>
__attribute__((noinline)) void run_many_tile(const ManyTile& t) {
  F sum[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p)
      sum[r][p] = t.first ? zero() : load(t.sums + (p * kPieceRows + r) * kLanes);
  }
  const std::byte* w = t.w;
  const std::byte* x = t.x;
  const auto step = [&](uint64_t i) __attribute__((always_inline)) {
    typename W::Panel panel[P];
    for (int p = 0; p < P; ++p) panel[p] = W::panel(w + p * t.panel_bytes + i * 64);
    for (int r = 0; r < R; ++r) {
      const typename W::Row row = W::row(x + r * kPackedRow + i * 4);
      for (int p = 0; p < P; ++p) sum[r][p] = W::accumulate(sum[r][p], panel[p], row);
    }
  };
  const std::byte* ahead = t.ahead;
  uint64_t s = 0;
  for (; s + kUnroll <= t.steps; s += kUnroll) {
    for (uint64_t i = 0; i < t.ahead_each; ++i, ahead += 64) {
      for (int p = 0; p < P; ++p) __builtin_prefetch(ahead + p * t.ahead_panel, 0, 2);
    }
    if (const uint64_t row = s / kAskSteps; row < t.ask_rows)
      __builtin_prefetch(t.ask + row * t.ask_row_bytes + s % kAskSteps * 64 / kUnroll);
    for (uint64_t i = 0; i < kUnroll; ++i) step(i);
    w += kUnroll * 64;
    x += kUnroll * 4;
  }
  for (; s < t.steps; ++s, w += 64, x += 4) step(0);
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      if (!t.last) {
        store(t.sums + (p * kPieceRows + r) * kLanes, sum[r][p]);
        continue;
      }
      const uint64_t left = t.columns > p * kLanes ? t.columns - p * kLanes : 0;
      store_some(t.y + r * t.y_stride + p * kLanes, sum[r][p], least(left, kLanes));
    }
  }
}

template <class W, int P, int R = kManyRows>
inline void run_many_rows(const ManyTile& t, uint64_t rows) {
  if constexpr (R > 1) {
    if (rows != R) return run_many_rows<W, P, R - 1>(t, rows);
  }
  run_many_tile<W, P, R>(t);
}

// Copies the next block's part of x, a few rows after every tile, which has asked for them.
template <class S>
struct RowCopy {
  const std::byte* from;
  Bytes row_bytes;
  std::byte* to;
  uint64_t rows, steps;  // no steps: nothing to copy
  uint64_t tiles, tile;  // over which the work is spread

  uint64_t due() const { return rows * tile / tiles; }
  // Has the tile ask for the rows that are copied after it: all at once they would keep it waiting.
  void ask(ManyTile& t) {
    const uint64_t begin = due();
    ++tile;
    t.ask = from + begin * row_bytes;
    t.ask_row_bytes = row_bytes;
    t.ask_rows = steps == 0 ? 0 : due() - begin;
  }
  void copy(uint64_t begin) const {
    for (uint64_t row = begin; row < due(); ++row) {
      const std::byte* in = from + row * row_bytes;
      float* out = reinterpret_cast<float*>(to + row * kPackedRow);
      for_lanes(steps, [&](uint64_t i, uint64_t n) {
        store_some(out + i, S::x(in + i * S::kStepRowBytes, n), n);
      });
    }
  }
};

// One part of P panels for all rows of the piece. `ahead`: lines of each panel that the next part
// has; the tiles share the asking.
template <class S, int P>
inline void run_part(ManyTile t, const std::byte* x, uint64_t rows, uint64_t ahead,
                     RowCopy<S>& next) {
  const uint64_t tiles = (rows + kManyRows - 1) / kManyRows;
  float* const sums = t.sums;
  float* const y = t.y;
  const uint64_t each = (kUnroll * ahead + kPartSteps * tiles - 1) / (kPartSteps * tiles);
  const uint64_t share = each * (kPartSteps / kUnroll);  // lines that a tile asks for
  for (uint64_t tile = 0; tile < tiles; ++tile) {
    const uint64_t row = rows * tile / tiles, count = rows * (tile + 1) / tiles - row;
    t.x = x + row * kPackedRow;
    t.sums = sums + row * kLanes;
    t.y = y + row * t.y_stride;
    t.ahead_each = tile * share < ahead ? each : 0;
    const uint64_t due = next.due();
    next.ask(t);
    run_many_rows<typename S::Weights, P>(t, count);
    next.copy(due);
    t.ahead += share * 64;
  }
}

template <class S>
inline void widen_part(const ManyTile& t, Bytes panel_size, uint64_t panels, float* out) {
  for (uint64_t p = 0; p < panels; ++p) {
    for (uint64_t s = 0; s < t.steps; s += 2) {
      const TwoColumns columns = S::columns(t.w + p * panel_size + s * S::kStepBytes);
      store(out + (p * kPartSteps + s) * kLanes, columns.even);
      store(out + (p * kPartSteps + s + 1) * kLanes, columns.odd);
    }
  }
}

struct Piece {
  uint64_t row, rows, panel, panels;
};

// All columns, block by block. `steps` in all.
template <class S>
inline void run_piece(const MatmulArgs& a, uint64_t all_steps, const Piece& piece) {
  static_assert(sizeof(Workplace) + sizeof(typename S::Part) <= kThreadStackBytes - 4096);
  Workplace place;
  [[maybe_unused]] typename S::Part widened;
  const Bytes panel_size = panel_bytes(a.w_type, a.k);
  const std::byte* const w = a.w + piece.panel * panel_size;
  const Bytes row_bytes = all_steps * S::kStepRowBytes;
  const uint64_t tiles = (piece.rows + kManyRows - 1) / kManyRows;
  const uint64_t parts = (piece.panels + kManyPanels - 1) / kManyPanels;
  RowCopy<S> copy{.from = static_cast<const std::byte*>(a.x) + piece.row * row_bytes,
                  .row_bytes = row_bytes,
                  .to = place.x[0],
                  .rows = piece.rows,
                  .steps = least(kPartSteps, all_steps),
                  .tiles = 1,
                  .tile = 0};
  copy.tile = 1;
  copy.copy(0);
  copy.tiles = tiles * parts;
  uint64_t steps = 0;
  for (uint64_t begin = 0, block = 0; begin < all_steps; begin += steps, ++block) {
    steps = copy.steps;
    const uint64_t next = begin + steps;
    copy.from += steps * S::kStepRowBytes;
    copy.to = place.x[(block + 1) % 2];
    copy.steps = least(kPartSteps, all_steps - next);
    copy.tile = 0;
    for (uint64_t panel = 0; panel < piece.panels; panel += kManyPanels) {
      const uint64_t taken = least(kManyPanels, piece.panels - panel);
      const bool more = panel + taken < piece.panels;
      ManyTile t{.w = w + panel * panel_size + begin * S::kStepBytes,
                 .panel_bytes = panel_size,
                 .x = nullptr,
                 .steps = steps,
                 .ahead = nullptr,
                 .ahead_panel = panel_size,
                 .ahead_each = 0,
                 .ask = nullptr,
                 .ask_row_bytes = 0,
                 .ask_rows = 0,
                 .sums = place.sums + panel * kPieceRows * kLanes,
                 .first = begin == 0,
                 .last = next == all_steps,
                 .y = a.y + piece.row * a.y_stride + (piece.panel + panel) * kLanes,
                 .y_stride = a.y_stride,
                 .columns = least(a.n - (piece.panel + panel) * kLanes, taken * kLanes)};
      t.ahead = more ? t.w + taken * panel_size : w + next * S::kStepBytes;
      const uint64_t ahead = (more ? steps : copy.steps) * S::kStepBytes / 64;
      if constexpr (S::kWidens) {
        widen_part<S>(t, panel_size, taken, widened.w);
        t.w = reinterpret_cast<const std::byte*>(widened.w);
        t.panel_bytes = kPartSteps * 64;
      }
      if (taken == kManyPanels) {
        run_part<S, kManyPanels>(t, place.x[block % 2], piece.rows, ahead, copy);
      } else {
        run_part<S, 1>(t, place.x[block % 2], piece.rows, ahead, copy);
      }
    }
  }
}

// How a product is cut into pieces: blocks of rows by groups of panels.
struct Cut {
  uint64_t tiles, blocks, groups;
};
inline Cut cut_of(const MatmulArgs& a, uint64_t group) {
  const uint64_t tiles = (a.m + kManyRows - 1) / kManyRows;
  return {tiles, (tiles * kManyRows + kPieceRows - 1) / kPieceRows,
          (panels_of(a) + group - 1) / group};
}

// Products of many rows as one loop over the pieces of all.
template <class S>
inline void multiply_many(ThreadPool& pool, const MatmulArgs* products, uint32_t count) {
  uint64_t panels = 0, work = 0;
  for (uint32_t i = 0; i < count; ++i) {
    panels += panels_of(products[i]) * cut_of(products[i], 1).blocks;
    work += work_of(products[i]);
  }
  // Panels that share a copy of x: many, but enough pieces for threads of unequal speed.
  uint64_t group = panels / (pool.threads() * 4) / kManyPanels * kManyPanels;
  group = group < 2 * kManyPanels ? 2 * kManyPanels : least(group, kPiecePanels);
  uint32_t first[kProductsMax + 1];  // piece of each product; the last is their number
  first[0] = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const Cut cut = cut_of(products[i], group);
    first[i + 1] = first[i] + static_cast<uint32_t>(cut.groups * cut.blocks);
  }
  for_turns(pool, first[count], work, [&](uint32_t turn) {
    const uint32_t product = product_of(first, count, turn);
    const MatmulArgs& a = products[product];
    const Cut cut = cut_of(a, group);
    const uint64_t piece = turn - first[product];
    const uint64_t block = piece % cut.blocks, panel = piece / cut.blocks * group;
    const uint64_t row = a.m * (cut.tiles * block / cut.blocks) / cut.tiles;
    const uint64_t end = a.m * (cut.tiles * (block + 1) / cut.blocks) / cut.tiles;
    run_piece<S>(a, S::steps_of(a.k), {row, end - row, panel, least(group, panels_of(a) - panel)});
  });
}

inline void multiply_many(ThreadPool& pool, DType type, const MatmulArgs* products,
                          uint32_t count) {
  if (type == DType::kF32) return multiply_many<Native<F32Weights>>(pool, products, count);
  if (type == DType::kF16) return multiply_many<WidenedF16>(pool, products, count);
  if constexpr (kMultipliesPairs) {
    multiply_many<Native<BF16Weights>>(pool, products, count);
  } else {
    multiply_many<WidenedBF16>(pool, products, count);
  }
}

}  // namespace
}  // namespace headrace::kernels
