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

void rms_norm(ThreadPool& pool, const RmsNormArgs& a) {
  for_rows(pool, a.rows, a.k, [&](uint64_t row) {
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    F squares[4] = {zero(), zero(), zero(), zero()};  // four chains hide the latency of FMA
    uint64_t k = 0;
    for (; k + 4 * kLanes <= a.k; k += 4 * kLanes) {
      for (int i = 0; i < 4; ++i) {
        const F v = load(x + k + i * kLanes);
        squares[i] = fma(v, v, squares[i]);
      }
    }
    for_lanes(a.k - k, [&](uint64_t i, uint64_t n) {
      const F v = load_some(x + k + i, n);
      squares[0] = fma(v, v, squares[0]);
    });
    const float sum = sum_lanes(add(add(squares[0], squares[2]), add(squares[1], squares[3])));
    const F scale = set1(1.0f / __builtin_sqrtf(sum / static_cast<float>(a.k) + a.eps));
    for_lanes(a.k, [&](uint64_t i, uint64_t n) {
      store_some(y + i, mul(mul(load_some(x + i, n), scale), load_some(a.weight + i, n)), n);
    });
  });
}

void add(ThreadPool& pool, const AddArgs& a) {
  constexpr uint64_t kPiece = 4096;  // elements
  for_rows(pool, (a.count + kPiece - 1) / kPiece, kPiece, [&](uint64_t piece) {
    const float* x = a.x + piece * kPiece;
    float* y = a.y + piece * kPiece;
    for_lanes(least(kPiece, a.count - piece * kPiece), [&](uint64_t i, uint64_t n) {
      store_some(y + i, add(load_some(y + i, n), load_some(x + i, n)), n);
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

void silu_mul(ThreadPool& pool, const SiluMulArgs& a) {
  for_rows(pool, a.rows, 4 * a.n, [&](uint64_t row) {
    const float* gate = a.gate + row * a.gate_stride;
    const float* up = a.up + row * a.up_stride;
    float* out = a.out + row * a.n;
    for_lanes(a.n, [&](uint64_t i, uint64_t n) {
      const F g = load_some(gate + i, n);
      const F sigmoid_inverse = add(set1(1.0f), exponential(sub(zero(), g)));
      store_some(out + i, mul(div(g, sigmoid_inverse), load_some(up + i, n)), n);
    });
  });
}

// Angles are float32 products, as in the models' own code; cosine and sine are those of the C
// library, exact in range reduction at any position, computed once per row for all heads.
void rope(ThreadPool& pool, const RopeArgs& a) {
  const uint64_t half = a.head_dim / 2;
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

}  // namespace
}  // namespace headrace::kernels
