// The decoder against a textbook transformer in double precision, one sequence at a time, on random
// configs of every family: sizes that golden folders are too small for (objects of many chunks).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>

#include "core/half.h"
#include "models/block.h"
#include "models/families.h"
#include "tests/models/in_memory.h"
#include "tests/support/seed.h"

namespace headrace::models {
namespace {

using Vector = std::vector<double>;

class Naive {
 public:
  Naive(const ModelConfig& config, const Matrices& tensors, uint32_t length)
      : c_(config), n_(*config.names), tensors_(tensors), length_(length) {
    keys_.resize(c_.layers);
    values_.resize(c_.layers);
  }

  Vector logits_of(int32_t token, uint32_t position) {
    Vector x = embed(token, position);
    for (uint32_t layer = 0; layer < c_.layers; ++layer) block(x, layer, position);
    const char* head = c_.tie_word_embeddings ? n_.embedding : n_.head;
    if (c_.block.final_norm) x = norm(x, n_.final_norm);
    Vector logits = product(head, x, c_.vocab_size);
    for (double& y : logits) y = cap(y, c_.logit_softcap);
    return logits;
  }
  bool close_call() const { return close_call_; }  // an expert was chosen by a hair

 private:
  struct Elements {  // one tensor, widened element by element
    const std::byte* bytes;
    DType type;
    double operator[](uint64_t i) const {
      float wide;
      uint16_t half;
      if (type == DType::kF32) return std::memcpy(&wide, bytes + i * 4, 4), double{wide};
      std::memcpy(&half, bytes + i * 2, 2);
      return double{type == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half)};
    }
  };
  Elements matrix(const std::string& tensor) const {
    return {tensors_.at(tensor).data(), c_.dtype};
  }
  Elements vector(const std::string& tensor) const {
    return {tensors_.at(tensor).data(), DType::kF32};
  }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static double cap(double x, double most) { return most == 0 ? x : most * std::tanh(x / most); }

  Vector embed(int32_t token, uint32_t position) const {
    const uint64_t hidden = c_.hidden_size;
    Vector x(hidden);
    float scale = c_.scale_embedding ? std::sqrt(static_cast<float>(hidden)) : 1;
    if (c_.dtype == DType::kBF16) scale = bf16_to_f32(f32_to_bf16(scale));
    if (c_.dtype == DType::kF16) scale = f16_to_f32(f32_to_f16(scale));
    for (uint64_t i = 0; i < hidden; ++i) {
      x[i] = matrix(n_.embedding)[static_cast<uint64_t>(token) * hidden + i] * scale;
      if (c_.positions == Positions::kLearned) {
        x[i] += matrix(n_.positions)[(position + c_.position_offset) * hidden + i];
      }
    }
    return x;
  }

  void block(Vector& x, uint32_t layer, uint32_t position) {
    const Block& b = c_.block;
    prefix_ = std::string(n_.layers) + "." + std::to_string(layer) + ".";
    const bool before = b.place == NormPlace::kInput, after = b.place == NormPlace::kSum;
    const std::string first = prefix_ + n_.attention_norm;
    const std::string second = b.one_norm ? first : prefix_ + n_.ffn_norm;
    const Vector start = x;
    Vector y = attention(layer, position, before ? norm(x, first) : x);
    if (b.output_norms) y = norm(y, prefix_ + n_.attention_out_norm);
    add(x, y);
    if (after) x = norm(x, first);
    const Vector& stream = b.parallel ? start : x;
    const Vector h = before ? norm(stream, second) : stream;
    y = c_.has_experts(layer) ? mixture(h) : dense(h);
    if (b.output_norms) y = norm(y, prefix_ + n_.ffn_out_norm);
    add(x, y);
    if (after) x = norm(x, second);
  }

  Vector norm(const Vector& x, const std::string& name) const {
    const double count = static_cast<double>(x.size());
    const bool layer = c_.block.norm == NormKind::kLayer;
    const double mean = layer ? std::accumulate(x.begin(), x.end(), 0.0) / count : 0;
    double squares = 0;
    for (const double value : x) squares += (value - mean) * (value - mean);
    const Elements w = vector(name + ".weight");
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double weight = w[i] + (c_.block.norms_add_one ? 1 : 0);
      y[i] = (x[i] - mean) / std::sqrt(squares / count + double{c_.norm_eps}) * weight;
      if (layer) y[i] += vector(name + ".bias")[i];
    }
    return y;
  }
  // y = W x + b, the bias where there is a tensor of that name.
  Vector product(const std::string& weight, const Vector& x, uint64_t rows) const {
    const Elements w = matrix(weight);
    const bool transposed = n_.transposed && weight.starts_with(n_.layers);
    Vector y(rows);
    for (uint64_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < x.size(); ++i) {
        y[r] += w[transposed ? i * rows + r : r * x.size() + i] * x[i];
      }
    }
    std::string bias = weight;
    bias.replace(bias.rfind("weight"), 6, "bias");
    if (tensors_.count(bias) == 0) return y;
    for (uint64_t r = 0; r < rows; ++r) y[r] += vector(bias)[r];
    return y;
  }

  struct Qkv {
    Vector q, k, v;
  };
  Qkv qkv(const Vector& h) const {
    const uint64_t d = c_.head_dim, group = c_.heads / c_.kv_heads;
    const uint64_t q = c_.heads * d, kv = c_.kv_heads * d;
    if (n_.qkv == nullptr) {
      return {product(prefix_ + n_.q + ".weight", h, q), product(prefix_ + n_.k + ".weight", h, kv),
              product(prefix_ + n_.v + ".weight", h, kv)};
    }
    const Vector all = product(prefix_ + n_.qkv + ".weight", h, q + 2 * kv);
    Qkv out;
    for (uint64_t i = 0; i < all.size(); ++i) {
      const uint64_t head = i / d;
      const bool by_group = n_.qkv_by_group;
      const bool is_q = by_group ? head % (group + 2) < group : head < c_.heads;
      const bool is_k =
          by_group ? head % (group + 2) == group : head < c_.heads + uint64_t{c_.kv_heads};
      (is_q ? out.q : is_k ? out.k : out.v).push_back(all[i]);
    }
    return out;
  }

  // q or k: normed where the model does so, and turned.
  void turn(Vector& y, const std::string& norm_name, uint32_t layer, uint32_t position) const {
    const uint64_t d = c_.head_dim;
    if (c_.qk_norm == QkNorm::kWhole) y = norm(y, norm_name);
    const Rope& rope = c_.rope_of(layer);
    const bool is_long = length_ > rope.scaling.original_positions;
    const std::vector<float> frequencies = rotary_frequencies(rope, is_long);
    const uint64_t half = c_.positions == Positions::kRotary ? frequencies.size() : 0;
    for (uint64_t begin = 0; begin < y.size(); begin += d) {
      Vector head(y.begin() + static_cast<std::ptrdiff_t>(begin),
                  y.begin() + static_cast<std::ptrdiff_t>(begin + d));
      if (c_.qk_norm == QkNorm::kHead) head = norm(head, norm_name);
      std::copy(head.begin(), head.end(), y.begin() + static_cast<std::ptrdiff_t>(begin));
      for (uint64_t i = 0; i < half; ++i) {
        const double angle = double{frequencies[i]} * position;
        const double cosine = std::cos(angle) * rope.scaling.attention_factor;
        const double sine = std::sin(angle) * rope.scaling.attention_factor;
        y[begin + i] = head[i] * cosine - head[i + half] * sine;
        y[begin + half + i] = head[i + half] * cosine + head[i] * sine;
      }
    }
  }

  Vector attention(uint32_t layer, uint32_t position, const Vector& h) {
    const uint64_t d = c_.head_dim;
    Qkv all = qkv(h);
    turn(all.q, prefix_ + n_.q_norm, layer, position);
    turn(all.k, prefix_ + n_.k_norm, layer, position);
    keys_[layer].push_back(all.k);
    values_[layer].push_back(all.v);
    const uint32_t window = c_.slides(layer) ? c_.sliding_window : ~0u;
    const uint32_t first = position + 1 > window ? position + 1 - window : 0;
    double scale =
        std::sqrt(c_.attention_scalar == 0 ? static_cast<double>(d) : c_.attention_scalar);
    if (c_.attention_scaled_by_layer) scale *= layer + 1;
    Vector mixed(c_.heads * d);
    for (uint64_t head = 0; head < c_.heads; ++head) {
      const uint64_t group = head / (c_.heads / c_.kv_heads);
      Vector weights;
      for (uint32_t t = first; t <= position; ++t) {
        double score = 0;
        for (uint64_t i = 0; i < d; ++i) {
          score += all.q[head * d + i] * keys_[layer][t][group * d + i];
        }
        weights.push_back(std::exp(cap(score / scale, c_.attention_softcap)));
      }
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (uint32_t t = first; t <= position; ++t) {
        for (uint64_t i = 0; i < d; ++i) {
          mixed[head * d + i] += weights[t - first] / sum * values_[layer][t][group * d + i];
        }
      }
    }
    return product(prefix_ + n_.o + ".weight", mixed, c_.hidden_size);
  }

  double activated(double x) const {
    switch (c_.block.activation) {
      case kernels::Activation::kSilu:
        return x / (1 + std::exp(-x));
      case kernels::Activation::kGelu:
        return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
      case kernels::Activation::kGeluTanh:
        return x / 2 *
               (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case kernels::Activation::kRelu:
        return std::max(x, 0.0);
    }
    return x;
  }
  Vector dense(const Vector& h) const {
    const uint64_t n = c_.intermediate_size;
    Vector gate, up;
    if (n_.gate_up != nullptr) {
      const Vector both = product(prefix_ + n_.gate_up + ".weight", h, 2 * n);
      gate.assign(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(n));
      up.assign(both.begin() + static_cast<std::ptrdiff_t>(n), both.end());
    } else {
      gate = product(prefix_ + n_.gate + ".weight", h, n);
      if (c_.block.gated) up = product(prefix_ + n_.up + ".weight", h, n);
    }
    for (size_t i = 0; i < n; ++i) gate[i] = activated(gate[i]) * (up.empty() ? 1 : up[i]);
    return product(prefix_ + n_.down + ".weight", gate, c_.hidden_size);
  }
  Vector expert(const Vector& h, const std::string& start, uint64_t size) const {
    Vector g = product(start + n_.experts.gate + ".weight", h, size);
    const Vector u = product(start + n_.experts.up + ".weight", h, size);
    for (size_t i = 0; i < g.size(); ++i) g[i] = activated(g[i]) * u[i];
    return product(start + n_.experts.down + ".weight", g, c_.hidden_size);
  }
  Vector mixture(const Vector& h) {
    const ExpertNames& names = n_.experts;
    const Vector scores = product(prefix_ + names.router, h, c_.experts);
    std::vector<uint32_t> order(c_.experts);
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
    const uint32_t chosen = c_.experts_per_token;
    if (chosen < c_.experts && scores[order[chosen - 1]] - scores[order[chosen]] < 1e-3) {
      close_call_ = true;
    }
    double sum = 0;
    for (uint32_t r = 0; r < (c_.renormalise_routing ? chosen : c_.experts); ++r) {
      sum += std::exp(scores[order[r]]);
    }
    Vector out(c_.hidden_size);
    for (uint32_t r = 0; r < chosen; ++r) {
      const std::string start = prefix_ + names.experts + "." + std::to_string(order[r]) + ".";
      Vector part = expert(h, start, c_.expert_size);
      for (double& x : part) x *= std::exp(scores[order[r]]) / sum;
      add(out, part);
    }
    if (c_.shared_size == 0) return out;
    Vector part = expert(h, prefix_ + names.shared + ".", c_.shared_size);
    const double gate = product(prefix_ + names.shared_gate, h, 1)[0];
    for (double& x : part) x /= 1 + std::exp(-gate);
    add(out, part);
    return out;
  }

  const ModelConfig& c_;
  const TensorNames& n_;
  const Matrices& tensors_;
  const uint32_t length_;
  std::string prefix_;
  std::vector<std::vector<Vector>> keys_, values_;  // [layer][position]
  bool close_call_ = false;
};

TEST(Naive, DecoderComputesATransformer) {
  ThreadPool pool(2);
  uint64_t compared = 0;
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    Random random(test::seed(), i);
    const json::object json = random_config(random);
    SCOPED_TRACE(test::seed_note(i) + ": " + to_text(json));
    const ModelConfig config = parse_config(json, "random");
    const Matrices tensors = random_tensors(config, random.next_u64());
    const auto model = pack_model(config, tensors);
    std::vector<Row> rows(random.between(1, 50));
    const uint32_t length = static_cast<uint32_t>(rows.size() + random.below(30));
    Naive naive(config, tensors, length);
    std::vector<Vector> expected;
    for (uint32_t t = 0; t < rows.size(); ++t) {
      rows[t].token = static_cast<int32_t>(random.below(config.vocab_size));
      rows[t].position = static_cast<int32_t>(t);
      expected.push_back(naive.logits_of(rows[t].token, t));
    }
    const bool narrows = config.dtype == DType::kBF16;
    // Rounding may then choose another expert, which is no error.
    if (naive.close_call() || (narrows && config.experts != 0)) continue;
    const kernels::Kernels* table = kernels::tables()[random.below(kernels::tables().size())];
    if (!kernels::supported(*table)) table = kernels::tables().back();
    SCOPED_TRACE(table->isa);
    const Execution execution{.kernels = table, .pool = &pool, .random = &random, .length = length};
    Runner runner(*model, execution, 1, 50);
    const auto logits = runner.pass(rows);
    double most = 0, error = 0;
    for (size_t t = 0; t < rows.size(); ++t) {
      for (size_t n = 0; n < expected[t].size(); ++n) {
        most = std::max(most, std::abs(expected[t][n]));
        error = std::max(error, std::abs(expected[t][n] - double{logits[t][n]}));
      }
    }
    EXPECT_LE(error, (narrows ? 5e-2 : 2e-5) * most);
    ++compared;
  }
  EXPECT_GE(compared, 30u);
}

}  // namespace
}  // namespace headrace::models
