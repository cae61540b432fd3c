// Attention over blocks of keys and values.
//
// One piece of work is a few rows and a key-value head; the H / G query heads that use it share the
// loads, and rows of the same sequence share the cache: they pass block by block. Per block of 32
// tokens and row: scores (lanes along the head dimension), their maximum, e^x, and the weighted sum
// of values folded into out, which carries the running result. The arithmetic of a row does not
// know which other rows are in the call. Bounded by reading keys and values: values are prefetched
// while scores are computed, and the next block's keys while values are summed.
#pragma once

#include "kernels/cpu/kv_append.h"
#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

constexpr uint64_t kGroupMost = 16;  // query heads whose state is kept at a time

struct Scores {  // what turns a dot product into a score
  float scale, softcap;
};

struct Fold {  // the running softmax of some query heads over one key-value head
  uint64_t heads;
  uint64_t head_dim;
  const float* q;                            // [heads, D]
  float* out;                                // [heads, D]
  float most[kGroupMost];                    // the maximum so far
  float total[kGroupMost];                   // the sum of exponentials so far
  float decay[kGroupMost];                   // e^(old maximum - new maximum)
  float weight[kGroupMost][kKvBlockTokens];  // scores, then exponentials of this block
};

// Brings one token's keys or values towards the core.
template <typename Element>
inline void prefetch_token(const Element* p, uint64_t head_dim) {
  const std::byte* bytes = reinterpret_cast<const std::byte*>(p);
  for (Bytes at = 0; at < head_dim * sizeof(Element); at += 64) __builtin_prefetch(bytes + at);
}

// Scores of N heads from `head` on for tokens [4i, 4i + 4) that meet [begin, end). `coming`: where
// the values of these tokens lie, to be prefetched; null if they were.
template <class Kv, int N>
inline void score_heads(Fold& f, const typename Kv::Element* keys,
                        const typename Kv::Element* coming, uint64_t head, uint64_t begin,
                        uint64_t end) {
  const uint64_t dim = f.head_dim;
  for (uint64_t token = begin & ~uint64_t{3}; token < end; token += 4) {
    const typename Kv::Element* key[4];
    for (int t = 0; t < 4; ++t) {  // tokens that nobody wrote are never read
      const uint64_t at = token + t < begin ? begin : token + t;
      key[t] = keys + (at < end ? at : end - 1) * dim;
      if (coming != nullptr) prefetch_token(coming + (token + t) * dim, dim);
    }
    F sum[N][4];
    for (int h = 0; h < N; ++h) {
      for (int t = 0; t < 4; ++t) sum[h][t] = zero();
    }
    for_lanes(
        dim, [&](uint64_t d, uint64_t count) __attribute__((always_inline)) {
          F k[4];
          for (int t = 0; t < 4; ++t) k[t] = Kv::load(key[t] + d, count);
          for (int h = 0; h < N; ++h) {
            const F q = load_some(f.q + (head + h) * dim + d, count);
            for (int t = 0; t < 4; ++t) sum[h][t] = fma(q, k[t], sum[h][t]);
          }
        });
    for (int h = 0; h < N; ++h) sum_lanes_of_four(sum[h], f.weight[head + h] + token);
  }
}

inline F capped(F scores, float cap) {
  return mul(hyperbolic_tangent(div(scores, set1(cap))), set1(cap));
}

// Scores to exponentials; tokens outside [begin, end) weigh nothing.
inline void fold_maximum(Fold& f, uint64_t head, const Scores& s, uint64_t begin, uint64_t end) {
  float* weight = f.weight[head];
  if (s.softcap != 0) {  // before the mask: it would make a score of minus infinity finite
    store(weight, capped(mul(load(weight), set1(s.scale)), s.softcap));
    store(weight + kLanes, capped(mul(load(weight + kLanes), set1(s.scale)), s.softcap));
  }
  const float scale = s.softcap != 0 ? 1.0f : s.scale;
  for (uint64_t t = 0; t < begin; ++t) weight[t] = -__builtin_inff();
  for (uint64_t t = end; t < kKvBlockTokens; ++t) weight[t] = -__builtin_inff();
  const F lo = mul(load(weight), set1(scale));
  const F hi = mul(load(weight + kLanes), set1(scale));
  const float block_most = max_lanes(max(lo, hi));
  const float most = f.most[head] > block_most ? f.most[head] : block_most;
  const F e_lo = exponential(sub(lo, set1(most)));
  const F e_hi = exponential(sub(hi, set1(most)));
  store(weight, e_lo);
  store(weight + kLanes, e_hi);
  float decay[kLanes];
  store(decay, exponential(set1(f.most[head] - most)));
  f.decay[head] = decay[0];
  f.total[head] = f.total[head] * decay[0] + sum_lanes(add(e_lo, e_hi));
  f.most[head] = most;
}

// out = out * decay + weights . values for N heads, `C` x 16 columns (the last may be fewer).
template <class Kv, int N, int C>
inline void add_values(Fold& f, const typename Kv::Element* values,
                       const typename Kv::Element* coming, uint64_t head, uint64_t column,
                       uint64_t last_count, uint64_t begin, uint64_t end) {
  F sum[N][C];
  const auto count = [&](int c) { return c + 1 == C ? last_count : kLanes; };
  for (int h = 0; h < N; ++h) {
    const float* out = f.out + (head + h) * f.head_dim + column;
    for (int c = 0; c < C; ++c) {
      sum[h][c] = mul(load_some(out + c * kLanes, count(c)), set1(f.decay[head + h]));
    }
  }
  for (uint64_t t = begin; t < end; ++t) {
    F v[C];
    const typename Kv::Element* value = values + t * f.head_dim + column;
    for (int c = 0; c < C; ++c) v[c] = Kv::load(value + c * kLanes, count(c));
    if (coming != nullptr) prefetch_token(coming + t * f.head_dim, f.head_dim);
    for (int h = 0; h < N; ++h) {
      const F weight = set1(f.weight[head + h][t]);
      for (int c = 0; c < C; ++c) sum[h][c] = fma(weight, v[c], sum[h][c]);
    }
  }
  for (int h = 0; h < N; ++h) {
    float* out = f.out + (head + h) * f.head_dim + column;
    for (int c = 0; c < C; ++c) store_some(out + c * kLanes, sum[h][c], count(c));
  }
}

template <class Kv, int N>
inline void value_heads(Fold& f, const typename Kv::Element* values,
                        const typename Kv::Element* coming, uint64_t head, uint64_t begin,
                        uint64_t end) {
  constexpr int kC = 4;
  for (uint64_t column = 0; column < f.head_dim;) {
    const typename Kv::Element* next = column == 0 ? coming : nullptr;
    if (column + kC * kLanes <= f.head_dim) {
      add_values<Kv, N, kC>(f, values, next, head, column, kLanes, begin, end);
      column += kC * kLanes;
    } else {
      const uint64_t count = least(kLanes, f.head_dim - column);
      add_values<Kv, N, 1>(f, values, next, head, column, count, begin, end);
      column += kLanes;
    }
  }
}

// One key-value head's part of a block.
template <class Kv>
struct Block {
  const typename Kv::Element* keys;       // [32, D]
  const typename Kv::Element* values;     // [32, D]
  const typename Kv::Element* next_keys;  // null: nothing to prefetch
};

// Folds tokens [begin, end) of one block.
template <class Kv>
inline void fold_block(Fold& f, const Block<Kv>& b, bool prefetch, const Scores& scores,
                       uint64_t begin, uint64_t end) {
  const auto* values = prefetch ? b.values : nullptr;
  const auto* next = prefetch ? b.next_keys : nullptr;
  uint64_t head = 0;
  for (; head + kHeadTile <= f.heads; head += kHeadTile) {
    score_heads<Kv, kHeadTile>(f, b.keys, head == 0 ? values : nullptr, head, begin, end);
  }
  for (; head < f.heads; ++head) {
    score_heads<Kv, 1>(f, b.keys, head == 0 ? values : nullptr, head, begin, end);
  }
  for (head = 0; head < f.heads; ++head) fold_maximum(f, head, scores, begin, end);
  head = 0;
  for (; head + kHeadTile <= f.heads; head += kHeadTile) {
    value_heads<Kv, kHeadTile>(f, b.values, head == 0 ? next : nullptr, head, begin, end);
  }
  for (; head < f.heads; ++head) {
    value_heads<Kv, 1>(f, b.values, head == 0 ? next : nullptr, head, begin, end);
  }
}

constexpr uint64_t kRowsMost = 8;  // rows that pass a block together

// Tokens that a row sees: [first, last].
inline uint64_t last_token(const AttentionArgs& a, uint64_t row) {
  return static_cast<uint64_t>(a.positions[row]);
}
inline uint64_t first_token(const AttentionArgs& a, uint64_t row) {
  const uint64_t tokens = last_token(a, row) + 1;
  return a.window != 0 && tokens > a.window ? tokens - a.window : 0;
}

inline void begin_fold(Fold& f, const AttentionArgs& a, uint64_t row, uint64_t head,
                       uint64_t heads) {
  f.heads = heads;
  f.head_dim = a.head_dim;
  f.q = a.q + row * a.q_stride + head * a.head_dim;
  f.out = a.out + (row * a.heads + head) * a.head_dim;
  for_lanes(heads * a.head_dim, [&](uint64_t i, uint64_t n) { store_some(f.out + i, zero(), n); });
  for (uint64_t h = 0; h < heads; ++h) {
    f.most[h] = -__builtin_inff();
    f.total[h] = 0;
  }
}

inline void end_fold(const Fold& f) {
  for (uint64_t h = 0; h < f.heads; ++h) {
    float* out = f.out + h * f.head_dim;
    const F total = set1(f.total[h]);
    for_lanes(f.head_dim, [&](uint64_t d, uint64_t n) {
      store_some(out + d, div(load_some(out + d, n), total), n);
    });
  }
}

// Query heads [head, head + heads), which use key-value head `kv_head`, of rows [row, row + rows),
// all of one sequence, at most kRowsMost.
template <class Kv>
inline void attend(const AttentionArgs& a, uint64_t row, uint64_t rows, uint64_t kv_head,
                   uint64_t head, uint64_t heads) {
  using Element = typename Kv::Element;
  const uint64_t to_head = kv_head * kKvBlockTokens * a.head_dim;
  const uint64_t to_values = a.kv_heads * kKvBlockTokens * a.head_dim;
  const SequenceKv& sequence = a.sequences[a.sequence[row]];
  const auto keys = [&](uint64_t block) {
    return reinterpret_cast<const Element*>(sequence.blocks[block] + a.layer_offset) + to_head;
  };
  Fold folds[kRowsMost];
  uint64_t first = ~uint64_t{0}, last = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    begin_fold(folds[r], a, row + r, head, heads);
    first = least(first, first_token(a, row + r));
    last = last_token(a, row + r) > last ? last_token(a, row + r) : last;
  }
  const uint64_t last_block = last / kKvBlockTokens;
  for (uint64_t block = first / kKvBlockTokens; block <= last_block; ++block) {
    const Block<Kv> b{.keys = keys(block),
                      .values = keys(block) + to_values,
                      .next_keys = block < last_block ? keys(block + 1) : nullptr};
    const uint64_t base = block * kKvBlockTokens;
    bool prefetch = true;
    for (uint64_t r = 0; r < rows; ++r) {
      const uint64_t from = first_token(a, row + r), to = last_token(a, row + r) + 1;
      if (to <= base || from >= base + kKvBlockTokens) continue;
      fold_block<Kv>(folds[r], b, prefetch, {a.scale, a.softcap}, from > base ? from - base : 0,
                     least(to - base, kKvBlockTokens));
      prefetch = false;
    }
  }
  for (uint64_t r = 0; r < rows; ++r) end_fold(folds[r]);
}

template <class Kv>
inline void attend_all(ThreadPool& pool, const AttentionArgs& a) {
  if (a.rows == 0) return;
  const uint64_t group = a.heads / a.kv_heads;
  uint64_t context = 0;  // of the longest row, to judge whether threads are worth waking
  for (uint64_t row = 0; row < a.rows; ++row) {
    context = last_token(a, row) > context ? last_token(a, row) : context;
  }
  // Rows are taken together as far as enough pieces remain for the threads.
  const uint64_t spare = a.rows * a.kv_heads / (4 * pool.threads());
  const uint64_t step = spare < 1 ? 1 : least(spare, kRowsMost);
  const uint64_t row_steps = (a.rows + step - 1) / step;
  const auto body = [&](uint64_t i) {
    const uint64_t kv_head = i % a.kv_heads;
    const uint64_t end = least(a.rows, (i / a.kv_heads + 1) * step);
    for (uint64_t row = i / a.kv_heads * step, next; row < end; row = next) {
      next = row + 1;
      while (next < end && a.sequence[next] == a.sequence[row]) ++next;
      for (uint64_t done = 0; done < group; done += kGroupMost) {
        attend<Kv>(a, row, next - row, kv_head, kv_head * group + done,
                   least(group - done, kGroupMost));
      }
    }
  };
  for_rows(pool, row_steps * a.kv_heads, step * context * a.head_dim * (group + 1), body);
}

void attention(ThreadPool& pool, const AttentionArgs& a) {
  if (a.kv_type == DType::kF32) return attend_all<F32Kv>(pool, a);
  attend_all<BF16Kv>(pool, a);
}

}  // namespace
}  // namespace headrace::kernels
