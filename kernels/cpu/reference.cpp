// The naive version of every operation: the specification that the other tables are tested against.
// One loop per index, no blocking, no intrinsics. Products accumulate in float32 in the order that
// args.h fixes, so the vectorised tables can be compared bit for bit where they use the same
// arithmetic; softmax and attention are plain textbook formulas in double.
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "core/half.h"
#include "kernels/cpu/tables.h"

namespace headrace::kernels {
namespace {

float load_f32(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

uint16_t load_u16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float element(const std::byte* data, DType type, uint64_t index) {
  if (type == DType::kF32) return load_f32(data + index * 4);
  const uint16_t bits = load_u16(data + index * 2);
  return type == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// Index of element (lane, k) inside one panel.
uint64_t panel_index(DType type, uint64_t k, uint32_t lane) {
  if (type == DType::kF32) return k * kPanelRows + lane;
  return (k / 2 * kPanelRows + lane) * 2 + k % 2;
}

void pack_panels(const PackPanelsArgs& a) {
  const size_t size = a.type == DType::kF32 ? 4 : 2;
  const uint64_t panels = (a.count + kPanelRows - 1) / kPanelRows;
  std::memset(a.panels, 0, panels * panel_bytes(a.type, a.k));
  for (uint64_t row = 0; row < a.count; ++row) {
    std::byte* panel = a.panels + row / kPanelRows * panel_bytes(a.type, a.k);
    for (uint64_t k = 0; k < a.k; ++k) {
      const uint64_t to = panel_index(a.type, k, row % kPanelRows);
      std::memcpy(panel + to * size, a.rows + (row * a.k + k) * size, size);
    }
  }
}

void unpack_row(const UnpackRowArgs& a) {
  for (uint64_t k = 0; k < a.k; ++k) {
    a.out[k] = element(a.panels, a.type, panel_index(a.type, k, a.lane));
  }
}

void widen(const WidenArgs& a) {
  for (uint64_t i = 0; i < a.count; ++i) a.out[i] = element(a.in, a.type, i);
}

void narrow(ThreadPool&, const NarrowArgs& a) {
  const uint64_t padded = (a.k + 1) / 2 * 2;
  for (uint64_t row = 0; row < a.rows; ++row) {
    uint16_t* out = a.out + row * padded;
    for (uint64_t k = 0; k < a.k; ++k) out[k] = f32_to_bf16(a.in[row * a.in_stride + k]);
    if (padded != a.k) out[a.k] = 0;
  }
}

float x_element(const MatmulArgs& a, uint64_t row, uint64_t k) {
  if (a.w_type != DType::kBF16) return static_cast<const float*>(a.x)[row * a.k + k];
  return bf16_to_f32(static_cast<const uint16_t*>(a.x)[row * ((a.k + 1) / 2 * 2) + k]);
}

void matmul(ThreadPool& pool, const MatmulArgs& a) {
  const uint64_t panels = (a.n + kPanelRows - 1) / kPanelRows;
  pool.run(static_cast<uint32_t>(panels), [&](uint32_t p) {
    const std::byte* panel = a.w + p * panel_bytes(a.w_type, a.k);
    for (uint64_t row = 0; row < a.m; ++row) {
      float sum[kPanelRows] = {};
      for (uint64_t k = 0; k < a.k; ++k) {
        const float x = x_element(a, row, k);
        for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
          sum[lane] =
              std::fma(x, element(panel, a.w_type, panel_index(a.w_type, k, lane)), sum[lane]);
        }
      }
      for (uint64_t n = p * kPanelRows; n < a.n && n < (p + 1) * kPanelRows; ++n) {
        a.y[row * a.y_stride + n] = sum[n % kPanelRows];
      }
    }
  });
}

void matmul_each(ThreadPool& pool, const MatmulEachArgs& a) {
  for (uint32_t i = 0; i < a.count; ++i) matmul(pool, a.products[i]);
}

void rms_norm(ThreadPool&, const RmsNormArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    double squares = 0;
    for (uint64_t k = 0; k < a.k; ++k) squares += double{x[k]} * x[k];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(a.k) + double{a.eps});
    for (uint64_t k = 0; k < a.k; ++k) y[k] = static_cast<float>(x[k] * scale * a.weight[k]);
  }
}

void layer_norm(ThreadPool&, const LayerNormArgs& a) {
  const double count = static_cast<double>(a.k);
  for (uint64_t row = 0; row < a.rows; ++row) {
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    double sum = 0, squares = 0;
    for (uint64_t k = 0; k < a.k; ++k) sum += x[k];
    const double mean = sum / count;
    for (uint64_t k = 0; k < a.k; ++k) squares += (x[k] - mean) * (x[k] - mean);
    const double scale = 1.0 / std::sqrt(squares / count + double{a.eps});
    for (uint64_t k = 0; k < a.k; ++k) {
      y[k] = static_cast<float>((x[k] - mean) * scale * a.weight[k] + a.bias[k]);
    }
  }
}

void add(ThreadPool&, const AddArgs& a) {
  for (uint64_t i = 0; i < a.count; ++i) a.y[i] += a.x[i];
}

void add_bias(ThreadPool&, const AddBiasArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    for (uint64_t n = 0; n < a.n; ++n) a.y[row * a.y_stride + n] += a.bias[n];
  }
}

void scale(ThreadPool&, const ScaleArgs& a) {
  for (uint64_t i = 0; i < a.count; ++i) a.x[i] *= a.factor;
}

void softcap(ThreadPool&, const SoftcapArgs& a) {
  const double cap = a.cap;
  for (uint64_t i = 0; i < a.count; ++i) a.x[i] = static_cast<float>(cap * std::tanh(a.x[i] / cap));
}

double activation(Activation function, double x) {
  switch (function) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * std::erfc(-x / std::numbers::sqrt2) / 2;
    case Activation::kGeluTanh: {
      const double u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * u));  // (1 + tanh(u)) / 2, without its cancellation
    }
    case Activation::kRelu:
      return x < 0 ? 0 : x;
  }
  return x;
}

void activate(ThreadPool&, const ActivateArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    for (uint64_t n = 0; n < a.n; ++n) {
      const double gate = activation(a.function, a.gate[row * a.gate_stride + n]);
      const double up = a.up == nullptr ? 1.0 : double{a.up[row * a.up_stride + n]};
      a.out[row * a.n + n] = static_cast<float>(gate * up);
    }
  }
}

void rope(ThreadPool&, const RopeArgs& a) {
  const uint64_t half = (a.rotary == 0 ? a.head_dim : a.rotary) / 2;
  for (uint64_t row = 0; row < a.rows; ++row) {
    for (uint64_t i = 0; i < half; ++i) {
      // The angle is rounded to float32, as in the models' own code: part of the specification.
      const float angle = static_cast<float>(a.positions[row]) * a.inv_freq[i];
      const float cosine = std::cos(angle) * a.scale;
      const float sine = std::sin(angle) * a.scale;
      for (uint64_t head = 0; head < a.heads; ++head) {
        float* x = a.x + row * a.x_stride + head * a.head_dim + i;
        const float first = x[0];
        const float second = x[half];
        x[0] = first * cosine - second * sine;
        x[half] = second * cosine + first * sine;
      }
    }
  }
}

// Elements of a layer's part of a block, counted from its beginning.
struct KvPlace {
  DType type;
  uint64_t kv_heads, head_dim;

  uint64_t key(uint64_t token, uint64_t head, uint64_t d) const {  // token of the block
    const uint64_t lane = token % 16, columns = type == DType::kF32 ? 1 : 2;
    const uint64_t panel = (head * kKvBlockTokens + token - lane) * head_dim;
    if (d >= head_dim / columns * columns) return panel + d * 16 + lane;  // an odd last one
    return panel + d / columns * columns * 16 + lane * columns + d % columns;
  }
  uint64_t value(uint64_t token, uint64_t head, uint64_t d) const {
    return ((kv_heads + head) * kKvBlockTokens + token) * head_dim + d;
  }
};

std::byte* layer_of(const SequenceKv& sequence, Bytes layer_offset, uint64_t position) {
  return sequence.blocks[position / kKvBlockTokens] + layer_offset;
}

void store_element(DType type, std::byte* layer, uint64_t index, float value) {
  const uint16_t narrowed = f32_to_bf16(value);
  if (type == DType::kF32) {
    std::memcpy(layer + index * 4, &value, 4);
  } else {
    std::memcpy(layer + index * 2, &narrowed, 2);
  }
}

void kv_append(ThreadPool&, const KvAppendArgs& a) {
  const KvPlace place{a.kv_type, a.kv_heads, a.head_dim};
  for (uint64_t row = 0; row < a.rows; ++row) {
    const uint64_t position = static_cast<uint64_t>(a.positions[row]);
    const uint64_t token = position % kKvBlockTokens;
    std::byte* layer = layer_of(a.sequences[a.sequence[row]], a.layer_offset, position);
    for (uint64_t head = 0; head < a.kv_heads; ++head) {
      for (uint64_t d = 0; d < a.head_dim; ++d) {
        const uint64_t from = head * a.head_dim + d;
        store_element(a.kv_type, layer, place.key(token, head, d), a.k[row * a.k_stride + from]);
        store_element(a.kv_type, layer, place.value(token, head, d), a.v[row * a.v_stride + from]);
      }
    }
  }
}

// Textbook softmax(q K^T * scale) V of one query head over tokens [first, last]. Scores are
// computed anew where they are needed, because kernels own no memory.
void attend(const AttentionArgs& a, uint64_t row, uint64_t head) {
  const KvPlace place{a.kv_type, a.kv_heads, a.head_dim};
  const uint64_t kv_head = head / (a.heads / a.kv_heads);
  const float* q = a.q + row * a.q_stride + head * a.head_dim;
  float* out = a.out + (row * a.heads + head) * a.head_dim;
  const uint64_t last = static_cast<uint64_t>(a.positions[row]);
  const uint64_t first = a.window != 0 && last + 1 > a.window ? last + 1 - a.window : 0;

  const auto layer = [&](uint64_t token) {
    return layer_of(a.sequences[a.sequence[row]], a.layer_offset, token);
  };
  const auto score = [&](uint64_t token) {
    double dot = 0;
    for (uint64_t d = 0; d < a.head_dim; ++d) {
      const uint64_t key = place.key(token % kKvBlockTokens, kv_head, d);
      dot += double{q[d]} * element(layer(token), a.kv_type, key);
    }
    const double scaled = dot * a.scale;
    return a.softcap == 0 ? scaled : a.softcap * std::tanh(scaled / a.softcap);
  };
  double most = -std::numeric_limits<double>::infinity();
  for (uint64_t token = first; token <= last; ++token) most = std::fmax(most, score(token));

  constexpr uint64_t kChunk = 128;  // columns of the output that are summed at a time
  for (uint64_t begin = 0; begin < a.head_dim; begin += kChunk) {
    const uint64_t columns = a.head_dim - begin < kChunk ? a.head_dim - begin : kChunk;
    double sum[kChunk] = {};
    double total = 0;
    for (uint64_t token = first; token <= last; ++token) {
      const double weight = std::exp(score(token) - most);
      total += weight;
      const uint64_t value = place.value(token % kKvBlockTokens, kv_head, begin);
      for (uint64_t d = 0; d < columns; ++d) {
        sum[d] += weight * element(layer(token), a.kv_type, value + d);
      }
    }
    for (uint64_t d = 0; d < columns; ++d) out[begin + d] = static_cast<float>(sum[d] / total);
  }
}

void attention(ThreadPool& pool, const AttentionArgs& a) {
  pool.run(static_cast<uint32_t>(a.rows * a.heads),
           [&](uint32_t i) { attend(a, i / a.heads, i % a.heads); });
}

// The rank order is (logit descending, index ascending); each rank takes the first expert after
// the one before it, so nothing has to be marked as taken. NaN counts as the least logit, so that
// the indices stay valid; the weights then say NaN.
uint32_t next_expert(const float* logits, uint64_t experts, const uint32_t* previous) {
  const auto key = [&](uint32_t e) {
    return std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
  };
  uint32_t best = static_cast<uint32_t>(experts);
  for (uint32_t e = 0; e < experts; ++e) {
    if (previous != nullptr) {
      const float bound = key(*previous);
      if (key(e) > bound || (key(e) == bound && e <= *previous)) continue;
    }
    if (best == experts || key(e) > key(best)) best = e;
  }
  return best;
}

void gather_rows(ThreadPool&, const GatherRowsArgs& a) {
  for (uint64_t i = 0; i < a.count; ++i) {
    std::memcpy(a.out + i * a.k, a.in + a.index[i] * a.k, a.k * sizeof(float));
  }
}

void combine(ThreadPool&, const CombineArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    for (uint64_t rank = 0; rank < a.ranks; ++rank) {
      const float weight = a.weight[row * a.ranks + rank];
      const float* part = a.part + (row * a.ranks + rank) * a.k;
      for (uint64_t k = 0; k < a.k; ++k) {
        a.y[row * a.k + k] = std::fma(weight, part[k], a.y[row * a.k + k]);
      }
    }
  }
}

void add_gated(ThreadPool&, const AddGatedArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    const double weight = 1 / (1 + std::exp(-double{a.gate[row]}));
    for (uint64_t k = 0; k < a.k; ++k) {
      a.y[row * a.k + k] = static_cast<float>(a.y[row * a.k + k] + weight * a.part[row * a.k + k]);
    }
  }
}

}  // namespace

void topk_route(const TopkRouteArgs& a) {
  for (uint64_t row = 0; row < a.rows; ++row) {
    const float* logits = a.logits + row * a.experts;
    uint32_t* expert = a.expert + row * a.k;
    float* weight = a.weight + row * a.k;
    for (uint64_t rank = 0; rank < a.k; ++rank) {
      expert[rank] = next_expert(logits, a.experts, rank == 0 ? nullptr : expert + rank - 1);
    }
    const float most = logits[expert[0]];
    // Of all experts, or of the chosen ones when these are to sum to 1. In double: many that are
    // equally unlikely, added to one that is likely, would all be rounded the same way.
    double total = 0;
    for (uint64_t e = 0; e < (a.renormalise ? a.k : a.experts); ++e) {
      total += std::exp(logits[a.renormalise ? expert[e] : e] - most);
    }
    for (uint64_t rank = 0; rank < a.k; ++rank) {
      weight[rank] = static_cast<float>(std::exp(logits[expert[rank]] - most) / total);
    }
  }
}

const Kernels& reference_table() {
  static const Kernels table{
      .isa = "reference",
      .pack_panels = pack_panels,
      .unpack_row = unpack_row,
      .widen = widen,
      .narrow = narrow,
      .matmul = matmul,
      .matmul_each = matmul_each,
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .add = add,
      .add_bias = add_bias,
      .scale = scale,
      .softcap = softcap,
      .activate = activate,
      .rope = rope,
      .kv_append = kv_append,
      .attention = attention,
      .topk_route = topk_route,
      .gather_rows = gather_rows,
      .combine = combine,
      .add_gated = add_gated,
  };
  return table;
}

}  // namespace headrace::kernels
