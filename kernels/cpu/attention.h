// Attention over blocks of keys and values.
//
// One piece of work is a few rows and a key-value head: the H / G query heads of every row that use
// it are the queries. They pass block by block, so that keys and values come from memory once for
// all of them. Per block of 32 tokens: scores, their maximum, e^x, and the weighted sum of values
// folded into out, which carries the running result. Blocks that all rows see in full are folded
// for all queries together; those at the border of what a row sees, for that row alone, which never
// touches what it may not see. A query's arithmetic is the same either way.
#pragma once

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/vec.h"
#include "kernels/stack.h"

namespace headrace::kernels {
namespace {

struct Scores {  // what turns a dot product into a score
  float scale, softcap;
};

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

// Folds tokens [begin, end) of one block for queries [query, query_end).
template <class Kv>
inline void fold_block(Fold& f, const HeadBlock<Kv>& b, const Scores& scores, uint64_t query,
                       uint64_t query_end, uint64_t begin, uint64_t end) {
  for_query_tiles(query, query_end, [&]<int R>(uint64_t at) {
    score_queries<Kv, R>(b, f, at, f.weight[at], at == query && b.next_keys != nullptr);
  });
  for (uint64_t at = query; at < query_end; ++at) fold_maximum(f, at, scores, begin, end);
  const ValueTile t{.dim = f.dim,
                    .count = kLanes,
                    .begin = begin,
                    .end = end,
                    .weight = nullptr,
                    .decay = nullptr,
                    .out = nullptr};
  for_query_tiles(query, query_end, [&]<int R>(uint64_t at) {
    value_queries<Kv, R>(b, f, at, t, at == query && b.next_values != nullptr);
  });
}

// Tokens that a row sees: [first, last].
inline uint64_t last_token(const AttentionArgs& a, uint64_t row) {
  return static_cast<uint64_t>(a.positions[row]);
}
inline uint64_t first_token(const AttentionArgs& a, uint64_t row) {
  const uint64_t tokens = last_token(a, row) + 1;
  return a.window != 0 && tokens > a.window ? tokens - a.window : 0;
}

// What a row sees of the block that begins at `base`: [begin, end), empty when begin >= end.
struct Seen {
  uint64_t begin, end;
  bool all() const { return begin == 0 && end == kKvBlockTokens; }
};
inline Seen seen_of(const AttentionArgs& a, uint64_t row, uint64_t base) {
  const uint64_t from = first_token(a, row), to = last_token(a, row) + 1;
  return {from > base ? least(from - base, kKvBlockTokens) : 0,
          to > base ? least(to - base, kKvBlockTokens) : 0};
}

struct QueryMemory {
  alignas(64) float q[kQueries * kQueryStride];
  alignas(64) float out[kQueries * kQueryStride];
};

struct Queries {  // heads [head, head + heads) of rows [row, row + rows), of one sequence
  uint64_t row, rows, head, heads, kv_head;
};

inline void begin_fold(Fold& f, QueryMemory& memory, const AttentionArgs& a, const Queries& of) {
  f.dim = a.head_dim;
  const bool copied = a.head_dim <= kQueryDim;
  const uint64_t first = (of.row * a.heads + of.head) * a.head_dim;
  f.q = copied ? memory.q : a.q + of.row * a.q_stride + of.head * a.head_dim;
  f.out = copied ? memory.out : a.out + first;
  for (uint64_t i = 0; i < of.rows * of.heads; ++i) {
    const float* q =
        a.q + (of.row + i / of.heads) * a.q_stride + (of.head + i % of.heads) * a.head_dim;
    f.most[i] = -__builtin_inff();
    f.total[i] = 0;
    for_lanes(a.head_dim, [&](uint64_t d, uint64_t n) {
      if (copied) store_some(memory.q + i * kQueryStride + d, load_some(q + d, n), n);
      store_some(f.out + i * kQueryStride + d, zero(), n);
    });
  }
}

inline void end_fold(const Fold& f, const AttentionArgs& a, const Queries& of) {
  for (uint64_t i = 0; i < of.rows * of.heads; ++i) {
    float* out = a.out + ((of.row + i / of.heads) * a.heads + of.head + i % of.heads) * f.dim;
    const F total = set1(f.total[i]);
    for_lanes(f.dim, [&](uint64_t d, uint64_t n) {
      store_some(out + d, div(load_some(f.out + i * kQueryStride + d, n), total), n);
    });
  }
}

template <class Kv>
inline void attend(const AttentionArgs& a, const Queries& of) {
  using Element = typename Kv::Element;
  const uint64_t to_head = of.kv_head * kKvBlockTokens * a.head_dim;
  const uint64_t to_values = a.kv_heads * kKvBlockTokens * a.head_dim;
  const SequenceKv& sequence = a.sequences[a.sequence[of.row]];
  const auto keys = [&](uint64_t block) {
    return reinterpret_cast<const Element*>(sequence.blocks[block] + a.layer_offset) + to_head;
  };
  static_assert(sizeof(QueryMemory) + sizeof(Fold) <= kThreadStackBytes);
  QueryMemory memory;
  Fold f;
  begin_fold(f, memory, a, of);
  uint64_t first = ~uint64_t{0}, last = 0;
  for (uint64_t row = of.row; row < of.row + of.rows; ++row) {
    first = least(first, first_token(a, row));
    last = last_token(a, row) > last ? last_token(a, row) : last;
  }
  const uint64_t last_block = last / kKvBlockTokens;
  for (uint64_t block = first / kKvBlockTokens; block <= last_block; ++block) {
    HeadBlock<Kv> b{keys(block), keys(block) + to_values, nullptr, nullptr};
    if (block < last_block) {
      b.next_keys = keys(block + 1);
      b.next_values = b.next_keys + to_values;
    }
    const uint64_t base = block * kKvBlockTokens;
    for (uint64_t row = 0, next; row < of.rows; row = next) {
      next = row + 1;
      const Seen seen = seen_of(a, of.row + row, base);
      if (seen.begin >= seen.end) continue;
      while (seen.all() && next < of.rows && seen_of(a, of.row + next, base).all()) ++next;
      fold_block<Kv>(f, b, {a.scale, a.softcap}, row * of.heads, next * of.heads, seen.begin,
                     seen.end);
      b.next_keys = b.next_values = nullptr;
    }
  }
  end_fold(f, a, of);
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
  const uint64_t heads_most = a.head_dim <= kQueryDim ? kQueries : 1;
  const uint64_t rows_most = heads_most / group < 1 ? 1 : heads_most / group;
  const uint64_t spare = a.rows * a.kv_heads / (4 * pool.threads());
  const uint64_t step = spare < 1 ? 1 : least(spare, rows_most);
  const uint64_t row_steps = (a.rows + step - 1) / step;
  const auto body = [&](uint64_t i) {
    const uint64_t kv_head = i % a.kv_heads;
    const uint64_t end = least(a.rows, (i / a.kv_heads + 1) * step);
    for (uint64_t row = i / a.kv_heads * step, next; row < end; row = next) {
      next = row + 1;
      while (next < end && a.sequence[next] == a.sequence[row]) ++next;
      for (uint64_t done = 0; done < group; done += heads_most) {
        attend<Kv>(
            a, {row, next - row, kv_head * group + done, least(group - done, heads_most), kv_head});
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
