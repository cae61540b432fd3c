// Attention over blocks of keys and values, and the writing of them.
//
// One piece of work is a row and a key-value head; the H / G query heads that use it share the
// loads. Per block of 32 tokens: scores (lanes along the head dimension), their maximum, e^x, and
// the weighted sum of values folded into out, which carries the running result. Nothing depends on
// which other rows are in the call. Bounded by reading keys and values.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

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

constexpr uint64_t kGroupMost = 16;  // query heads whose state is kept at a time

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

// Scores of N heads from `head` on for tokens [4i, 4i + 4) that meet [begin, end).
template <class Kv, int N>
inline void score_heads(Fold& f, const typename Kv::Element* keys, uint64_t head, uint64_t begin,
                        uint64_t end) {
  const uint64_t dim = f.head_dim;
  for (uint64_t token = begin & ~uint64_t{3}; token < end; token += 4) {
    const typename Kv::Element* key[4];
    for (int t = 0; t < 4; ++t) {  // tokens that nobody wrote are never read
      const uint64_t at = token + t < begin ? begin : token + t;
      key[t] = keys + (at < end ? at : end - 1) * dim;
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

// Scores to exponentials; tokens outside [begin, end) weigh nothing.
inline void fold_maximum(Fold& f, uint64_t head, float scale, uint64_t begin, uint64_t end) {
  float* weight = f.weight[head];
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
inline void add_values(Fold& f, const typename Kv::Element* values, uint64_t head, uint64_t column,
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
inline void value_heads(Fold& f, const typename Kv::Element* values, uint64_t head, uint64_t begin,
                        uint64_t end) {
  constexpr int kC = 4;
  uint64_t column = 0;
  for (; column + kC * kLanes <= f.head_dim; column += kC * kLanes) {
    add_values<Kv, N, kC>(f, values, head, column, kLanes, begin, end);
  }
  for (; column < f.head_dim; column += kLanes) {
    add_values<Kv, N, 1>(f, values, head, column, least(kLanes, f.head_dim - column), begin, end);
  }
}

// Folds tokens [begin, end) of one block.
template <class Kv>
inline void fold_block(Fold& f, const typename Kv::Element* keys,
                       const typename Kv::Element* values, float scale, uint64_t begin,
                       uint64_t end) {
  uint64_t head = 0;
  for (; head + kHeadTile <= f.heads; head += kHeadTile) {
    score_heads<Kv, kHeadTile>(f, keys, head, begin, end);
  }
  for (; head < f.heads; ++head) score_heads<Kv, 1>(f, keys, head, begin, end);
  for (head = 0; head < f.heads; ++head) fold_maximum(f, head, scale, begin, end);
  head = 0;
  for (; head + kHeadTile <= f.heads; head += kHeadTile) {
    value_heads<Kv, kHeadTile>(f, values, head, begin, end);
  }
  for (; head < f.heads; ++head) value_heads<Kv, 1>(f, values, head, begin, end);
}

// Query heads [head, head + heads) of one row; all of them use key-value head `kv_head`.
template <class Kv>
inline void attend(const AttentionArgs& a, uint64_t row, uint64_t kv_head, uint64_t head,
                   uint64_t heads) {
  using Element = typename Kv::Element;
  const uint64_t last = static_cast<uint64_t>(a.positions[row]);
  const uint64_t first = a.window != 0 && last + 1 > a.window ? last + 1 - a.window : 0;
  const uint64_t to_values = a.kv_heads * kKvBlockTokens * a.head_dim;
  const SequenceKv& sequence = a.sequences[a.sequence[row]];

  Fold f;
  f.heads = heads;
  f.head_dim = a.head_dim;
  f.q = a.q + row * a.q_stride + head * a.head_dim;
  f.out = a.out + (row * a.heads + head) * a.head_dim;
  for_lanes(heads * a.head_dim, [&](uint64_t i, uint64_t n) { store_some(f.out + i, zero(), n); });
  for (uint64_t h = 0; h < heads; ++h) {
    f.most[h] = -__builtin_inff();
    f.total[h] = 0;
  }
  for (uint64_t block = first / kKvBlockTokens; block <= last / kKvBlockTokens; ++block) {
    const uint64_t base = block * kKvBlockTokens;
    const Element* keys =
        reinterpret_cast<const Element*>(sequence.blocks[block] + a.layer_offset) +
        kv_head * kKvBlockTokens * a.head_dim;
    const uint64_t begin = first > base ? first - base : 0;
    const uint64_t end = least(last + 1 - base, kKvBlockTokens);
    fold_block<Kv>(f, keys, keys + to_values, a.scale, begin, end);
  }
  for (uint64_t h = 0; h < heads; ++h) {
    float* out = f.out + h * a.head_dim;
    const F total = set1(f.total[h]);
    for_lanes(a.head_dim, [&](uint64_t d, uint64_t n) {
      store_some(out + d, div(load_some(out + d, n), total), n);
    });
  }
}

template <class Kv>
inline void attend_all(ThreadPool& pool, const AttentionArgs& a) {
  const uint64_t group = a.heads / a.kv_heads;
  const auto body = [&](uint64_t i) {
    const uint64_t row = i / a.kv_heads;
    const uint64_t kv_head = i % a.kv_heads;
    for (uint64_t done = 0; done < group; done += kGroupMost) {
      attend<Kv>(a, row, kv_head, kv_head * group + done, least(group - done, kGroupMost));
    }
  };
  const uint64_t pieces = a.rows * a.kv_heads;
  if (pieces == 0) return;
  uint64_t context = 0;  // of the longest row, to judge whether threads are worth waking
  for (uint64_t row = 0; row < a.rows; ++row) {
    const uint64_t tokens = static_cast<uint64_t>(a.positions[row]) + 1;
    context = tokens > context ? tokens : context;
  }
  for_rows(pool, pieces, context * a.head_dim * (group + 1), body);
}

void attention(ThreadPool& pool, const AttentionArgs& a) {
  if (a.kv_type == DType::kF32) return attend_all<F32Kv>(pool, a);
  attend_all<BF16Kv>(pool, a);
}

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
