#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/common.h"

namespace headrace::kernels {
namespace {

constexpr DType kStored[] = {DType::kF32, DType::kBF16, DType::kF16};

// Calls test(table, random, threads) for every table with the same random numbers.
template <typename Test>
void for_tables(uint64_t stream, int count, const Test& test) {
  for (int i = 0; i < test_count(count); ++i) {
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(testing::Message()
                   << "HEADRACE_TEST_SEED=" << test_seed() << " round " << i << ' ' << table->isa);
      Random random(test_seed(), stream * 1000 + i);
      test(*table, random, pool_of(1 + i % 3));
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Panels, PackingPutsElementsWhereTheFormatSays) {
  for_tables(1, 30, [](const Kernels& t, Random& random, ThreadPool&) {
    const DType type = kStored[random.below(3)];
    const Matrix m = random_matrix(random, type, random.between(1, 70), random.between(1, 90));
    const std::vector<std::byte> panels = packed(t, m);
    ASSERT_TRUE(same_bits(panels, packed(reference(), m)));
    std::vector<float> row(m.k);
    for (uint64_t n = 0; n < (m.n + 15) / 16 * 16; ++n) {
      const std::byte* panel = panels.data() + n / 16 * panel_bytes(type, m.k);
      t.unpack_row({panel, type, m.k, static_cast<uint32_t>(n % 16), row.data()});
      for (uint64_t k = 0; k < m.k; ++k) {
        const uint64_t at =
            type == DType::kF32 ? k * 16 + n % 16 : (k / 2 * 16 + n % 16) * 2 + k % 2;
        ASSERT_EQ(get_element(panel, type, at), n < m.n ? m.values[n * m.k + k] : 0.0f);
        ASSERT_EQ(row[k], get_element(panel, type, at));
      }
      if (m.k % 2 == 1 && type != DType::kF32) {
        const uint64_t pad = (m.k / 2 * 16 + n % 16) * 2 + 1;
        ASSERT_EQ(get_element(panel, type, pad), 0.0f) << "pad";
      }
    }
  });
}

TEST(Convert, WidenKeepsEveryBitPattern) {
  for (const Kernels* t : runnable_tables()) {
    for (DType type : {DType::kBF16, DType::kF16}) {
      std::vector<uint16_t> in(65536 + 5);
      for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
      std::vector<float> out(in.size());
      t->widen({reinterpret_cast<const std::byte*>(in.data()), type, in.size(), out.data()});
      for (size_t i = 0; i < in.size(); ++i) {
        const float expected = type == DType::kBF16 ? bf16_to_f32(in[i]) : f16_to_f32(in[i]);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(out[i])) << i;
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(expected)) << i;
        }
      }
    }
    const float in[] = {1, -2, 3};
    float out[3];
    t->widen({reinterpret_cast<const std::byte*>(in), DType::kF32, 3, out});
    EXPECT_TRUE(same_bits(in, out, 3));
  }
}

TEST(Convert, NarrowRoundsTheSameOnEveryIsa) {
  for_tables(2, 20, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 9), k = random.between(1, 99);
    const uint64_t stride = k + random.below(4), padded = (k + 1) / 2 * 2;
    std::vector<float> in(rows * stride);
    for (float& v : in) {  // all bit patterns: subnormals, infinities and NaN among them
      v = std::bit_cast<float>(random.next_u32());
      if (random.chance(0.1)) v = std::bit_cast<float>(random.next_u32() & 0x807fffffu);
      if (random.chance(0.1)) v = std::bit_cast<float>(random.next_u32() | 0x7f800000u);
    }
    std::vector<uint16_t> out(rows * padded, 0xdead);
    t.narrow(pool, {in.data(), rows, k, stride, out.data()});
    for (uint64_t row = 0; row < rows; ++row) {
      for (uint64_t i = 0; i < padded; ++i) {
        const uint16_t expected = i < k ? f32_to_bf16(in[row * stride + i]) : 0;
        ASSERT_EQ(out[row * padded + i], expected);
      }
    }
  });
}

TEST(RmsNorm, AgreesWithTheReferenceAndRowsAreIndependent) {
  for_tables(3, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 40), k = random.between(1, 1500);
    const uint64_t x_stride = k + random.below(5), y_stride = k + random.below(5);
    const std::vector<float> x = random_floats(random, rows * x_stride, 3);
    const std::vector<float> weight = random_floats(random, k);
    std::vector<float> y(rows * y_stride, -1), expected(rows * y_stride, -1);
    RmsNormArgs args{x.data(), weight.data(), y.data(), rows, k, x_stride, y_stride, 1e-5f};
    t.rms_norm(pool, args);
    args.y = expected.data();
    reference().rms_norm(pool, args);
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(y[i], expected[i], 2e-6 * std::abs(expected[i]));
    }
    std::vector<float> alone(k);
    const uint64_t row = random.below(rows);
    t.rms_norm(pool, {x.data() + row * x_stride, weight.data(), alone.data(), 1, k, k, k, 1e-5f});
    ASSERT_TRUE(same_bits(alone.data(), &y[row * y_stride], k));
    std::vector<float> in_place = x;
    t.rms_norm(pool, {in_place.data(), weight.data(), in_place.data(), rows, k, x_stride, x_stride,
                      1e-5f});
    ASSERT_TRUE(same_bits(&in_place[row * x_stride], alone.data(), k)) << "in place";
  });
}

TEST(Sums, AddAndBiasAreExact) {
  for_tables(4, 20, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 30),
                   n = random.between(1, random.chance(0.2) ? 5000 : 99);
    const uint64_t stride = n + random.below(5);
    const std::vector<float> x = random_floats(random, rows * stride);
    std::vector<float> y = random_floats(random, rows * stride), expected = y;
    t.add(pool, {x.data(), y.data(), y.size()});
    reference().add(pool, {x.data(), expected.data(), y.size()});
    ASSERT_TRUE(same_bits(y, expected));
    t.add_bias(pool, {x.data(), y.data(), rows, n, stride});
    reference().add_bias(pool, {x.data(), expected.data(), rows, n, stride});
    ASSERT_TRUE(same_bits(y, expected));
  });
}

TEST(LayerNorm, AgreesWithTheReferenceAndRowsAreIndependent) {
  for_tables(9, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 40), k = random.between(2, 1500);
    const uint64_t x_stride = k + random.below(5), y_stride = k + random.below(5);
    std::vector<float> x = random_floats(random, rows * x_stride, 3);
    for (float& v : x) v += 5;  // a mean that is larger than what the norm keeps
    const std::vector<float> weight = random_floats(random, k), bias = random_floats(random, k);
    std::vector<float> y(rows * y_stride, -1), expected(rows * y_stride, -1);
    LayerNormArgs args{x.data(), weight.data(), bias.data(), y.data(), rows,
                       k,        x_stride,      y_stride,    1e-5f};
    t.layer_norm(pool, args);
    args.y = expected.data();
    reference().layer_norm(pool, args);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-5);
    std::vector<float> alone(x.begin() + static_cast<std::ptrdiff_t>((rows - 1) * x_stride),
                             x.begin() + static_cast<std::ptrdiff_t>((rows - 1) * x_stride + k));
    t.layer_norm(pool, {alone.data(), weight.data(), bias.data(), alone.data(), 1, k, k, k, 1e-5f});
    ASSERT_TRUE(same_bits(alone.data(), &y[(rows - 1) * y_stride], k));
  });
}

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                       Activation::kRelu};

TEST(Activate, AgreesWithTheReferenceGatedOrNot) {
  for_tables(5, 60, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 30), n = random.between(1, 300);
    const uint64_t gate_stride = n + random.below(5), up_stride = n + random.below(5);
    const std::vector<float> gate =
        random_floats(random, rows * gate_stride, random.chance(0.5) ? 2 : 60);
    const std::vector<float> up = random_floats(random, rows * up_stride);
    std::vector<float> out(rows * n), expected(rows * n);
    ActivateArgs args{kActivations[random.below(4)],
                      gate.data(),
                      random.chance(0.5) ? up.data() : nullptr,
                      out.data(),
                      rows,
                      n,
                      gate_stride,
                      up_stride};
    t.activate(pool, args);
    args.out = expected.data();
    reference().activate(pool, args);
    for (size_t i = 0; i < out.size(); ++i) {
      // Far out the rounding of a large exponent shows, where nothing of the value is left.
      ASSERT_NEAR(out[i], expected[i], 3e-6 * std::abs(expected[i]) + 1e-12);
    }
    std::vector<float> dense(gate.begin(), gate.begin() + static_cast<std::ptrdiff_t>(n));
    args.gate = args.out = dense.data();  // in place, one row
    args.rows = 1;
    args.gate_stride = n;
    t.activate(pool, args);
    ASSERT_TRUE(same_bits(dense.data(), out.data(), n));
  });
}

TEST(Activate, NanStaysNan) {
  for (const Kernels* t : runnable_tables()) {
    for (const Activation function : kActivations) {
      float x[] = {1, std::numeric_limits<float>::quiet_NaN(), -2};
      t->activate(pool_of(1), {function, x, nullptr, x, 1, 3, 3, 3});
      EXPECT_TRUE(std::isnan(x[1])) << t->isa;
      EXPECT_FALSE(std::isnan(x[0]) || std::isnan(x[2])) << t->isa;
    }
    float x[] = {0.1f, std::numeric_limits<float>::quiet_NaN(), -2};
    t->softcap(pool_of(1), {x, 3, 2.0f});
    EXPECT_TRUE(std::isnan(x[1])) << t->isa;
  }
}

TEST(ScaleAndSoftcap, AgreeWithTheReference) {
  for_tables(10, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const size_t count = random.between(1, random.chance(0.3) ? 20000 : 200);
    std::vector<float> x =
        random_floats(random, count, std::pow(10.0f, float(random.between(0, 6)) - 4));
    std::vector<float> expected = x;
    t.scale(pool, {x.data(), count, 1.7f});
    reference().scale(pool, {expected.data(), count, 1.7f});
    ASSERT_TRUE(same_bits(x, expected));
    const float cap = random.chance(0.5) ? 30.0f : 0.5f;
    t.softcap(pool, {x.data(), count, cap});
    reference().softcap(pool, {expected.data(), count, cap});
    for (size_t i = 0; i < count; ++i) {
      ASSERT_NEAR(x[i], expected[i], 5e-7 * std::abs(expected[i]));
      ASSERT_LE(std::abs(x[i]), cap);
    }
  });
}

TEST(Rope, AgreesWithTheReferenceAtAnyPosition) {
  for_tables(6, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 20), heads = random.between(1, 9);
    const uint64_t dim = 2 * random.between(1, 70), stride = heads * dim + random.below(5);
    const uint64_t rotary = random.chance(0.5) ? 0 : 2 * random.between(1, dim / 2);
    const uint64_t half = (rotary == 0 ? dim : rotary) / 2;
    std::vector<int32_t> positions(rows);
    for (int32_t& p : positions) {
      p = static_cast<int32_t>(random.below(random.chance(0.5) ? 4096 : 1 << 24));
    }
    std::vector<float> frequency(dim / 2);
    for (size_t i = 0; i < frequency.size(); ++i) {
      frequency[i] = static_cast<float>(std::pow(500000.0, -2.0 * double(i) / double(dim)));
    }
    const std::vector<float> x = random_floats(random, rows * stride);
    std::vector<float> y = x, expected = x;
    RopeArgs args{y.data(), positions.data(), frequency.data(), rows, heads, dim, stride, 1.1f,
                  rotary};
    t.rope(pool, args);
    args.x = expected.data();
    reference().rope(pool, args);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-6f);
    const uint64_t row = random.below(rows);
    std::vector<float> alone(x.begin() + row * stride, x.begin() + row * stride + heads * dim);
    args.x = alone.data();
    args.positions = &positions[row];
    args.rows = 1;
    t.rope(pool, args);
    ASSERT_TRUE(same_bits(alone.data(), &y[row * stride], alone.size()));
    for (uint64_t i = 2 * half; i < dim; ++i) ASSERT_EQ(alone[i], x[row * stride + i]);
    // Against the definition, not only the reference: the pair (0, D/2) turns by the position.
    const double angle = static_cast<float>(positions[row]) * frequency[0];
    const double a = x[row * stride], b = x[row * stride + half];
    ASSERT_NEAR(alone[0], 1.1f * (a * std::cos(angle) - b * std::sin(angle)), 2e-6);
    ASSERT_NEAR(alone[half], 1.1f * (b * std::cos(angle) + a * std::sin(angle)), 2e-6);
  });
}

TEST(TopkRoute, ChoosesTheLargestInOrderAndTiesByIndex) {
  for_tables(7, 40, [](const Kernels& t, Random& random, ThreadPool&) {
    const uint64_t rows = random.between(1, 9), experts = random.between(1, 70);
    const uint64_t k = random.between(1, std::min<uint64_t>(experts, 9));
    const bool renormalise = random.chance(0.5);
    std::vector<float> logits(rows * experts);
    for (float& v : logits) v = random.chance(0.5) ? float(random.below(4)) : 3 * random.normal();
    std::vector<uint32_t> expert(rows * k);
    std::vector<float> weight(rows * k);
    t.topk_route({logits.data(), expert.data(), weight.data(), rows, experts, k, renormalise});
    for (uint64_t row = 0; row < rows; ++row) {
      const float* l = &logits[row * experts];
      std::vector<uint32_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](uint32_t a, uint32_t b) { return l[a] > l[b]; });
      double total = 0;
      for (uint64_t e = 0; e < (renormalise ? k : experts); ++e)
        total += std::exp(double{l[order[e]]});
      for (uint64_t rank = 0; rank < k; ++rank) {
        ASSERT_EQ(expert[row * k + rank], order[rank]);
        ASSERT_NEAR(weight[row * k + rank], std::exp(double{l[order[rank]]}) / total, 1e-6);
      }
    }
  });
}

TEST(TopkRoute, ManyThatAreEquallyUnlikelyDoNotAddUpWrong) {
  std::vector<float> logits(200, 0.0f);
  logits[0] = 7.3f;
  uint32_t expert = 1;
  float weight = 0;
  reference().topk_route({logits.data(), &expert, &weight, 1, logits.size(), 1, false});
  EXPECT_EQ(expert, 0u);
  EXPECT_NEAR(weight, 1 / (1 + 199 * std::exp(-double{logits[0]})), 1e-7);
}

TEST(TopkRoute, NanLeavesIndicesValid) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, nan, 1, nan};
  uint32_t expert[4];
  float weight[4];
  reference().topk_route({logits.data(), expert, weight, 1, 4, 4, true});
  EXPECT_EQ(expert[0], 2u);
  std::sort(expert, expert + 4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(expert[i], i);
}

TEST(Experts, GatherAndCombine) {
  for_tables(8, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 20), ranks = random.between(1, 8),
                   k = random.between(1, 200);
    const std::vector<float> in = random_floats(random, rows * k);
    std::vector<uint32_t> index(rows * ranks);
    for (uint32_t& i : index) i = static_cast<uint32_t>(random.below(rows));
    std::vector<float> part(rows * ranks * k);
    t.gather_rows(pool, {in.data(), index.data(), part.data(), index.size(), k});
    for (size_t i = 0; i < index.size(); ++i) {
      ASSERT_TRUE(same_bits(&part[i * k], &in[index[i] * k], k));
    }
    const std::vector<float> weight = random_floats(random, rows * ranks);
    std::vector<float> y = in, expected = in;
    t.combine(pool, {part.data(), weight.data(), y.data(), rows, ranks, k});
    reference().combine(pool, {part.data(), weight.data(), expected.data(), rows, ranks, k});
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-5f);
    std::vector<float> alone(in.begin() + (rows - 1) * k, in.end());
    t.combine(pool, {&part[(rows - 1) * ranks * k], &weight[(rows - 1) * ranks], alone.data(), 1,
                     ranks, k});
    ASSERT_TRUE(same_bits(alone.data(), &y[(rows - 1) * k], k));
  });
}

TEST(Experts, AddGatedWeighsRowsByTheSigmoid) {
  for_tables(11, 30, [](const Kernels& t, Random& random, ThreadPool& pool) {
    const uint64_t rows = random.between(1, 20), k = random.between(1, 200);
    const std::vector<float> part = random_floats(random, rows * k),
                             gate = random_floats(random, rows, 5),
                             before = random_floats(random, rows * k);
    std::vector<float> y = before, expected = before;
    t.add_gated(pool, {part.data(), gate.data(), y.data(), rows, k});
    reference().add_gated(pool, {part.data(), gate.data(), expected.data(), rows, k});
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-6f);
    const size_t last = (rows - 1) * k;
    std::vector<float> alone(before.begin() + static_cast<std::ptrdiff_t>(last), before.end());
    t.add_gated(pool, {&part[last], &gate[rows - 1], alone.data(), 1, k});
    ASSERT_TRUE(same_bits(alone.data(), &y[last], k));
  });
}

}  // namespace
}  // namespace headrace::kernels
