// The decoder against a textbook transformer in double precision, one sequence at a time, on random
// configs of every family: sizes that golden folders are too small for (objects of many chunks).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
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
  Naive(const ModelConfig& config, const Matrices& tensors)
      : c_(config), tensors_(tensors), frequencies_(rotary_frequencies(config)) {
    keys_.resize(c_.layers);
    values_.resize(c_.layers);
  }

  Vector logits_of(int32_t token, uint32_t position) {
    const Elements embedding = elements("model.embed_tokens.weight");
    Vector x(c_.hidden_size);
    for (uint64_t i = 0; i < c_.hidden_size; ++i) {
      x[i] = embedding[static_cast<uint64_t>(token) * c_.hidden_size + i];
    }
    for (uint32_t layer = 0; layer < c_.layers; ++layer) {
      prefix_ = "model.layers." + std::to_string(layer) + ".";
      add(x, attention(layer, position, norm(x, prefix_ + "input_layernorm.weight")));
      const Vector h = norm(x, prefix_ + "post_attention_layernorm.weight");
      add(x, c_.experts == 0
                 ? feed_forward(h, prefix_ + "mlp.", "gate_proj", "up_proj", "down_proj")
                 : mixture(h));
    }
    const char* head = c_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    return product(head, norm(x, "model.norm.weight"), c_.vocab_size);
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
  Elements elements(const std::string& tensor) const {
    const bool vector = tensor.ends_with("bias") || tensor.find("norm") != std::string::npos;
    return {tensors_.at(tensor).data(), vector ? DType::kF32 : c_.dtype};
  }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  Vector norm(const Vector& x, const std::string& weight) const {
    const double mean =
        std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    const Elements w = elements(weight);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = x[i] / std::sqrt(mean + double{c_.rms_norm_eps}) * w[i];
    }
    return y;
  }
  // y = W x + b, the bias where there is a tensor of that name.
  Vector product(const std::string& weight, const Vector& x, uint64_t rows) const {
    const Elements w = elements(weight);
    Vector y(rows);
    for (uint64_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < x.size(); ++i) y[r] += w[r * x.size() + i] * x[i];
    }
    std::string bias = weight;
    bias.replace(bias.rfind("weight"), 6, "bias");
    if (tensors_.count(bias) == 0) return y;
    const Elements b = elements(bias);
    for (uint64_t r = 0; r < rows; ++r) y[r] += b[r];
    return y;
  }
  // Heads [begin, begin + head_dim) of y, normed where the model does so, and turned.
  void turn(Vector& y, const std::string& norm_weight, uint32_t position) const {
    const uint64_t d = c_.head_dim;
    for (uint64_t begin = 0; begin < y.size(); begin += d) {
      Vector head(y.begin() + static_cast<std::ptrdiff_t>(begin),
                  y.begin() + static_cast<std::ptrdiff_t>(begin + d));
      if (c_.qk_norm) head = norm(head, norm_weight);
      for (uint64_t i = 0; i < d / 2; ++i) {
        const double angle = double{frequencies_[i]} * position;
        y[begin + i] = head[i] * std::cos(angle) - head[i + d / 2] * std::sin(angle);
        y[begin + i + d / 2] = head[i + d / 2] * std::cos(angle) + head[i] * std::sin(angle);
      }
    }
  }
  Vector attention(uint32_t layer, uint32_t position, const Vector& h) {
    const uint64_t d = c_.head_dim;
    Vector q = product(prefix_ + "self_attn.q_proj.weight", h, c_.heads * d);
    Vector k = product(prefix_ + "self_attn.k_proj.weight", h, c_.kv_heads * d);
    turn(q, prefix_ + "self_attn.q_norm.weight", position);
    turn(k, prefix_ + "self_attn.k_norm.weight", position);
    keys_[layer].push_back(k);
    values_[layer].push_back(product(prefix_ + "self_attn.v_proj.weight", h, c_.kv_heads * d));
    const bool slides = c_.layer_slides.empty() || c_.layer_slides[layer] != 0;
    const uint32_t window = slides && c_.sliding_window != 0 ? c_.sliding_window : ~0u;
    const uint32_t first = position + 1 > window ? position + 1 - window : 0;
    Vector mixed(c_.heads * d);
    for (uint64_t head = 0; head < c_.heads; ++head) {
      const uint64_t group = head / (c_.heads / c_.kv_heads);
      Vector weights;
      for (uint32_t t = first; t <= position; ++t) {
        double score = 0;
        for (uint64_t i = 0; i < d; ++i) score += q[head * d + i] * keys_[layer][t][group * d + i];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
      }
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (uint32_t t = first; t <= position; ++t) {
        for (uint64_t i = 0; i < d; ++i) {
          mixed[head * d + i] += weights[t - first] / sum * values_[layer][t][group * d + i];
        }
      }
    }
    return product(prefix_ + "self_attn.o_proj.weight", mixed, c_.hidden_size);
  }
  Vector feed_forward(const Vector& h, const std::string& start, const std::string& gate,
                      const std::string& up, const std::string& down) const {
    Vector g = product(start + gate + ".weight", h, c_.intermediate_size);
    const Vector u = product(start + up + ".weight", h, c_.intermediate_size);
    for (size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
    return product(start + down + ".weight", g, c_.hidden_size);
  }
  Vector mixture(const Vector& h) {
    const ExpertNames& names = find_family(c_.family)->experts;
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
    for (uint32_t r = 0; r < chosen; ++r) sum += std::exp(scores[order[r]]);
    Vector out(c_.hidden_size);
    for (uint32_t r = 0; r < chosen; ++r) {
      const std::string start = prefix_ + names.experts + "." + std::to_string(order[r]) + ".";
      Vector part = feed_forward(h, start, names.gate, names.up, names.down);
      for (double& x : part) x *= std::exp(scores[order[r]]) / sum;
      add(out, part);
    }
    return out;
  }

  const ModelConfig& c_;
  const Matrices& tensors_;
  std::vector<float> frequencies_;
  std::string prefix_;
  std::vector<std::vector<Vector>> keys_, values_;  // [layer][position]
  bool close_call_ = false;
};

TEST(Naive, DecoderComputesATransformer) {
  ThreadPool pool(2);
  uint64_t compared = 0;
  for (uint64_t i = 0; i < test::cases(30); ++i) {
    Random random(test::seed(), i);
    const json::object json = random_config(random);
    SCOPED_TRACE(test::seed_note(i) + ": " + to_text(json));
    const ModelConfig config = parse_config(json, "random");
    const Matrices tensors = random_tensors(config, random.next_u64());
    const auto model = pack_model(config, tensors);
    std::vector<Row> rows(random.between(1, 50));
    Naive naive(config, tensors);
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
    Runner runner(*model, {.kernels = table, .pool = &pool, .random = &random}, 1, 50);
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
  EXPECT_GE(compared, 15u);
}

}  // namespace
}  // namespace headrace::models
