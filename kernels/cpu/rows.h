// Operations that treat rows one by one: norm, activation, rotary embedding, conversions, sums.
// Bounded by reading and writing their rows, which are small beside the weights.
#pragma once

#include "kernels/cpu/vec.h"

namespace headrace::kernels {
namespace {

void widen(const WidenArgs& a) {
  if (a.type == DType::kF32) {
    __builtin_memcpy(a.out, a.in, a.count * sizeof(float));
    return;
  }
  const uint16_t* in = reinterpret_cast<const uint16_t*>(a.in);
  if (a.type == DType::kBF16) {
    for_lanes(a.count,
              [&](uint64_t i, uint64_t n) { store_some(a.out + i, load_bf16_some(in + i, n), n); });
  } else {
    for_lanes(a.count,
              [&](uint64_t i, uint64_t n) { store_some(a.out + i, load_f16_some(in + i, n), n); });
  }
}

void narrow(ThreadPool& pool, const NarrowArgs& a) {
  const uint64_t padded = (a.k + 1) / 2 * 2;
  for_rows(pool, a.rows, a.k, [&](uint64_t row) {
    const float* in = a.in + row * a.in_stride;
    uint16_t* out = a.out + row * padded;
    for_lanes(a.k,
              [&](uint64_t k, uint64_t n) { store_bf16_some(out + k, load_some(in + k, n), n); });
    if (padded != a.k) out[a.k] = 0;
  });
}

// The sum of body(i, count) over [0, n) in one order: four chains, which hide the latency of
// addition.
template <typename Body>
inline float sum_of(uint64_t n, const Body& body) {
  F sums[4] = {zero(), zero(), zero(), zero()};
  uint64_t k = 0;
  for (; k + 4 * kLanes <= n; k += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) sums[i] = body(k + i * kLanes, kLanes, sums[i]);
  }
  for_lanes(n - k, [&](uint64_t i, uint64_t count) { sums[0] = body(k + i, count, sums[0]); });
  return sum_lanes(add(add(sums[0], sums[2]), add(sums[1], sums[3])));
}

void rms_norm(ThreadPool& pool, const RmsNormArgs& a) {
  for_rows(pool, a.rows, a.k, [&](uint64_t row) {
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    const float sum = sum_of(a.k, [&](uint64_t i, uint64_t n, F so_far) {
      const F v = load_some(x + i, n);
      return fma(v, v, so_far);
    });
    const F scale = set1(1.0f / __builtin_sqrtf(sum / static_cast<float>(a.k) + a.eps));
    for_lanes(a.k, [&](uint64_t i, uint64_t n) {
      store_some(y + i, mul(mul(load_some(x + i, n), scale), load_some(a.weight + i, n)), n);
    });
  });
}

// Two passes over the row, as the reference: the mean, then the squares of what is left.
void layer_norm(ThreadPool& pool, const LayerNormArgs& a) {
  for_rows(pool, a.rows, 2 * a.k, [&](uint64_t row) {
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    const float count = static_cast<float>(a.k);
    const float sum = sum_of(
        a.k, [&](uint64_t i, uint64_t n, F so_far) { return add(so_far, load_some(x + i, n)); });
    const F mean = set1(sum / count);
    const float squares = sum_of(a.k, [&](uint64_t i, uint64_t n, F so_far) {
      F left = sub(load_some(x + i, n), mean);
      if (n != kLanes) {  // lanes past the end hold no element
        float some[kLanes] = {};
        store_some(some, left, n);
        left = load(some);
      }
      return fma(left, left, so_far);
    });
    const F scale = set1(1.0f / __builtin_sqrtf(squares / count + a.eps));
    for_lanes(a.k, [&](uint64_t i, uint64_t n) {
      const F normed = mul(sub(load_some(x + i, n), mean), scale);
      store_some(y + i, fma(normed, load_some(a.weight + i, n), load_some(a.bias + i, n)), n);
    });
  });
}

// Calls body(first, count) for pieces of [0, count).
template <typename Body>
inline void for_pieces(ThreadPool& pool, uint64_t count, uint64_t cost, const Body& body) {
  constexpr uint64_t kPiece = 4096;  // elements
  for_rows(pool, (count + kPiece - 1) / kPiece, cost * kPiece,
           [&](uint64_t piece) { body(piece * kPiece, least(kPiece, count - piece * kPiece)); });
}

void add(ThreadPool& pool, const AddArgs& a) {
  for_pieces(pool, a.count, 1, [&](uint64_t first, uint64_t count) {
    const float* x = a.x + first;
    float* y = a.y + first;
    for_lanes(count, [&](uint64_t i, uint64_t n) {
      store_some(y + i, add(load_some(y + i, n), load_some(x + i, n)), n);
    });
  });
}

void scale(ThreadPool& pool, const ScaleArgs& a) {
  for_pieces(pool, a.count, 1, [&](uint64_t first, uint64_t count) {
    for_lanes(count, [&](uint64_t i, uint64_t n) {
      float* x = a.x + first + i;
      store_some(x, mul(load_some(x, n), set1(a.factor)), n);
    });
  });
}

void softcap(ThreadPool& pool, const SoftcapArgs& a) {
  for_pieces(pool, a.count, 4, [&](uint64_t first, uint64_t count) {
    for_lanes(count, [&](uint64_t i, uint64_t n) {
      float* x = a.x + first + i;
      const F capped = hyperbolic_tangent(div(load_some(x, n), set1(a.cap)));
      store_some(x, mul(capped, set1(a.cap)), n);
    });
  });
}

void add_bias(ThreadPool& pool, const AddBiasArgs& a) {
  for_rows(pool, a.rows, a.n, [&](uint64_t row) {
    float* y = a.y + row * a.y_stride;
    for_lanes(a.n, [&](uint64_t i, uint64_t n) {
      store_some(y + i, add(load_some(y + i, n), load_some(a.bias + i, n)), n);
    });
  });
}

inline F silu(F x) { return div(x, add(set1(1.0f), exponential(sub(zero(), x)))); }
inline F gelu(F x) {
  // The share of the normal distribution below x, from its smaller side.
  const F tail = mul(set1(0.5f), error_complement(mul(absolute(x), set1(0.70710678f))));
  return mul(x, where_less(x, zero(), tail, sub(set1(1.0f), tail)));
}
inline F gelu_tanh(F x) {
  const F cubic = fma(mul(mul(x, x), set1(0.044715f)), x, x);
  const F twice_u = mul(cubic, set1(1.5957691216f));  // 2 sqrt(2 / pi)
  return div(x, add(set1(1.0f), exponential(sub(zero(), twice_u))));
}
inline F relu(F x) { return max(zero(), x); }

template <F (*Function)(F)>
inline void activate_with(ThreadPool& pool, const ActivateArgs& a) {
  for_rows(pool, a.rows, 4 * a.n, [&](uint64_t row) {
    const float* gate = a.gate + row * a.gate_stride;
    const float* up = a.up == nullptr ? nullptr : a.up + row * a.up_stride;
    float* out = a.out + row * a.n;
    for_lanes(a.n, [&](uint64_t i, uint64_t n) {
      const F value = Function(load_some(gate + i, n));
      store_some(out + i, up == nullptr ? value : mul(value, load_some(up + i, n)), n);
    });
  });
}

void activate(ThreadPool& pool, const ActivateArgs& a) {
  switch (a.function) {
    case Activation::kSilu:
      return activate_with<silu>(pool, a);
    case Activation::kGelu:
      return activate_with<gelu>(pool, a);
    case Activation::kGeluTanh:
      return activate_with<gelu_tanh>(pool, a);
    case Activation::kRelu:
      return activate_with<relu>(pool, a);
  }
}

// Angles are float32 products, as in the models' own code; cosine and sine are those of the C
// library, exact in range reduction at any position, computed once per row for all heads.
void rope(ThreadPool& pool, const RopeArgs& a) {
  const uint64_t half = (a.rotary == 0 ? a.head_dim : a.rotary) / 2;
  for_rows(pool, a.rows, a.heads * a.head_dim + 16 * half, [&](uint64_t row) {
    const float position = static_cast<float>(a.positions[row]);
    for_lanes(half, [&](uint64_t i, uint64_t n) {
      float cosines[kLanes] = {}, sines[kLanes] = {};
      for (uint64_t j = 0; j < n; ++j) {
        const float angle = position * a.inv_freq[i + j];
        cosines[j] = __builtin_cosf(angle) * a.scale;
        sines[j] = __builtin_sinf(angle) * a.scale;
      }
      const F cosine = load(cosines), sine = load(sines);
      for (uint64_t head = 0; head < a.heads; ++head) {
        float* x = a.x + row * a.x_stride + head * a.head_dim + i;
        const F first = load_some(x, n), second = load_some(x + half, n);
        store_some(x, sub(mul(first, cosine), mul(second, sine)), n);
        store_some(x + half, add(mul(second, cosine), mul(first, sine)), n);
      }
    });
  });
}

void gather_rows(ThreadPool& pool, const GatherRowsArgs& a) {
  for_rows(pool, a.count, a.k, [&](uint64_t row) {
    __builtin_memcpy(a.out + row * a.k, a.in + a.index[row] * a.k, a.k * sizeof(float));
  });
}

void combine(ThreadPool& pool, const CombineArgs& a) {
  for_rows(pool, a.rows, a.ranks * a.k, [&](uint64_t row) {
    const float* part = a.part + row * a.ranks * a.k;
    float* y = a.y + row * a.k;
    for_lanes(a.k, [&](uint64_t k, uint64_t n) {
      F sum = load_some(y + k, n);
      for (uint64_t rank = 0; rank < a.ranks; ++rank) {
        const F weight = set1(a.weight[row * a.ranks + rank]);
        sum = fma(weight, load_some(part + rank * a.k + k, n), sum);
      }
      store_some(y + k, sum, n);
    });
  });
}

void add_gated(ThreadPool& pool, const AddGatedArgs& a) {
  for_rows(pool, a.rows, a.k, [&](uint64_t row) {
    const F weight = sigmoid(set1(a.gate[row]));
    const float* part = a.part + row * a.k;
    float* y = a.y + row * a.k;
    for_lanes(a.k, [&](uint64_t k, uint64_t n) {
      store_some(y + k, fma(weight, load_some(part + k, n), load_some(y + k, n)), n);
    });
  });
}

}  // namespace
}  // namespace headrace::kernels
