// Attention of some queries over one block of keys and values: scores and the weighted sum of
// values, in tiles of registers like those of a product (matmul_many.h). A score is one chain over
// the head dimension, a sum of values one chain over tokens, so the bits of a query depend neither
// on the tile that it is in nor on the other queries.
#pragma once

#include "kernels/cpu/kv_append.h"
#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

constexpr uint64_t kQueries = 48;  // that pass a block together
// Queries and sums lie an odd number of cache lines apart, so that they share L1. Longer ones pass
// alone and stay where they are.
constexpr uint64_t kQueryDim = 256, kQueryStride = kQueryDim + 16;

struct Fold {  // the running softmax of some queries over one key-value head
  uint64_t dim;
  const float* q;                                      // [queries, D], kQueryStride apart
  float* out;                                          // the same
  float most[kQueries];                                // the maximum so far
  float total[kQueries];                               // the sum of exponentials so far
  float decay[kQueries];                               // e^(old maximum - new maximum)
  alignas(64) float weight[kQueries][kKvBlockTokens];  // scores, then exponentials of this block
};

// One key-value head's part of a block, and what the next block has in its place (null: nothing),
// which is brought nearer on the way.
template <class Kv>
struct HeadBlock {
  const typename Kv::Element* keys;    // two panels of sixteen tokens
  const typename Kv::Element* values;  // [32, D]
  const typename Kv::Element* next_keys;
  const typename Kv::Element* next_values;
};

// Scores of R queries for P panels of tokens.
template <class Kv, int P, int R>
__attribute__((noinline)) void score_tile(const typename Kv::Element* keys, uint64_t dim,
                                          const typename Kv::Element* next, const float* q,
                                          float* weight) {
  F sum[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) sum[r][p] = zero();
  }
  const uint64_t steps = dim / Kv::kColumns;
  for (uint64_t s = 0; s < steps; ++s) {
    typename Kv::Keys k[P];
    for (int p = 0; p < P; ++p) {
      k[p] = Kv::keys(keys + p * kLanes * dim);
      if (next != nullptr)
        __builtin_prefetch(next + p * kLanes * dim + s * kLanes * Kv::kColumns, 0, 2);
    }
    for (int r = 0; r < R; ++r) {
      for (int p = 0; p < P; ++p) sum[r][p] = Kv::accumulate(sum[r][p], k[p], q + r * kQueryStride);
    }
    keys += kLanes * Kv::kColumns;
    q += Kv::kColumns;
  }
  if (steps * Kv::kColumns != dim) {
    for (int p = 0; p < P; ++p) {
      const F k = Kv::last_keys(keys + p * kLanes * dim);
      for (int r = 0; r < R; ++r) sum[r][p] = fma(set1(q[r * kQueryStride]), k, sum[r][p]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) store(weight + r * kKvBlockTokens + p * kLanes, sum[r][p]);
  }
}

inline void prefetch_bytes(const void* p, Bytes bytes) {
  for (Bytes at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const std::byte*>(p) + at, 0, 2);
}

// out = out * decay + weights . values of R queries and C x 16 columns, or C = 0: `count` columns.
struct ValueTile {
  uint64_t dim, count, begin, end;
  const float* weight;
  const float* decay;
  float* out;
};
template <class Kv, int R, int C>
__attribute__((noinline)) void value_tile(const ValueTile& t, const typename Kv::Element* values,
                                          const typename Kv::Element* next) {
  constexpr int kC = C == 0 ? 1 : C;
  F sum[R][kC];
  for (int r = 0; r < R; ++r) {
    const F decay = set1(t.decay[r]);
    const float* out = t.out + r * kQueryStride;
    for (int c = 0; c < kC; ++c)
      sum[r][c] = mul(C == 0 ? load_first(out, t.count) : load(out + c * kLanes), decay);
  }
  const float* weight = t.weight + t.begin;
  for (uint64_t token = t.begin; token < t.end; ++token, ++weight) {
    F v[kC];
    for (int c = 0; c < kC; ++c)
      v[c] = Kv::load(values + token * t.dim + c * kLanes, C == 0 ? t.count : kLanes);
    if (next != nullptr) prefetch_bytes(next + token * t.dim, t.dim * sizeof(*next));
    for (int r = 0; r < R; ++r) {
      const F w = set1(weight[r * kKvBlockTokens]);
      for (int c = 0; c < kC; ++c) sum[r][c] = fma(w, v[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    float* out = t.out + r * kQueryStride;
    for (int c = 0; c < kC; ++c) {
      if constexpr (C == 0) {
        store_first(out, sum[r][c], t.count);
      } else {
        store(out + c * kLanes, sum[r][c]);
      }
    }
  }
}

template <class Kv, int R>
inline void score_queries(const HeadBlock<Kv>& b, const Fold& f, uint64_t query, float* weight,
                          bool prefetch) {
  const float* q = f.q + query * kQueryStride;
  for (uint64_t group = 0; group < kKvBlockTokens / kLanes; group += kManyPanels) {
    const uint64_t at = group * kLanes * f.dim;
    score_tile<Kv, kManyPanels, R>(b.keys + at, f.dim, prefetch ? b.next_keys + at : nullptr, q,
                                   weight + group * kLanes);
  }
}

// As many columns from t.out on as C x 16 at a time cover, then as half of that do, and so on.
template <class Kv, int R, int C>
inline void value_columns_of(ValueTile t, const typename Kv::Element* values, uint64_t columns,
                             const typename Kv::Element* next) {
  for (; columns >= C * kLanes; columns -= C * kLanes) {
    value_tile<Kv, R, C>(t, values, next);
    next = nullptr;
    t.out += C * kLanes;
    values += C * kLanes;
  }
  if (columns == 0) return;
  if constexpr (C > 1) {
    value_columns_of<Kv, R, C / 2>(t, values, columns, next);
  } else {
    t.count = columns;
    value_tile<Kv, R, 0>(t, values, next);
  }
}

template <class Kv, int R>
inline void value_queries(const HeadBlock<Kv>& b, const Fold& f, uint64_t query, ValueTile t,
                          bool prefetch) {
  t.weight = f.weight[query];
  t.decay = f.decay + query;
  t.out = f.out + query * kQueryStride;
  value_columns_of<Kv, R, value_columns(R)>(t, b.values, f.dim, prefetch ? b.next_values : nullptr);
}

// Calls body(constant of R, first query) for all tiles of [begin, end), evenly spread.
template <int R, typename Body>
inline void with_rows(uint64_t rows, const Body& body) {
  if constexpr (R > 1) {
    if (rows != R) return with_rows<R - 1>(rows, body);
  }
  body.template operator()<R>();
}
template <typename Body>
inline void for_query_tiles(uint64_t begin, uint64_t end, const Body& body) {
  const uint64_t queries = end - begin, tiles = (queries + kHeadTile - 1) / kHeadTile;
  for (uint64_t tile = 0; tile < tiles; ++tile) {
    const uint64_t query = queries * tile / tiles, next = queries * (tile + 1) / tiles;
    with_rows<kHeadTile>(next - query,
                         [&]<int R>() { body.template operator()<R>(begin + query); });
  }
}

}  // namespace
}  // namespace headrace::kernels
