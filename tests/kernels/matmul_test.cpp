#include "tests/kernels/common.h"

namespace headrace::kernels {
namespace {

struct Case {
  uint64_t seed;
  DType type;
  uint64_t m, n, k, y_stride;
  unsigned threads;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "HEADRACE_TEST_SEED=" << c.seed << ' ' << name_of(c.type) << " m=" << c.m
             << " n=" << c.n << " k=" << c.k << " y_stride=" << c.y_stride
             << " threads=" << c.threads;
}

// Shapes that no tile divides; some so deep that columns are walked in several blocks, some so
// large that threads share them.
std::vector<Case> cases() {
  std::vector<Case> list;
  Random random(test_seed(), 1);
  for (int i = 0; i < test_count(60); ++i) {
    Case c{.seed = test_seed(),
           .type = std::array{DType::kF32, DType::kBF16, DType::kF16}[i % 3],
           .m = random.between(1, random.chance(0.5) ? 8 : 40),
           .n = random.between(1, random.chance(0.3) ? 300 : 70),
           .k = random.between(1, random.chance(0.3) ? 1400 : 200),
           .y_stride = 0,
           .threads = static_cast<unsigned>(random.between(1, 3))};
    c.y_stride = c.n + (random.chance(0.5) ? random.below(9) : 0);
    list.push_back(c);
  }
  for (DType type : {DType::kF32, DType::kBF16, DType::kF16}) {  // borders of blocks of columns
    for (uint64_t k : {255, 256, 257, 511, 512, 513, 514, 1023, 1024, 1025}) {
      list.push_back({test_seed(), type, 13, 50, k, 50, 2});
    }
  }
  for (DType type : {DType::kF32, DType::kBF16, DType::kF16}) {  // several pieces of rows
    for (uint64_t m : {71, 73, 145}) {
      const uint64_t n = random.between(1, 150), k = random.between(1, 600);
      list.push_back({test_seed(), type, m, n, k, n, 2});
    }
  }
  return list;
}

struct Problem {
  Matrix w;
  std::vector<float> x;        // [m, k], the values that the product sees
  std::vector<uint16_t> x_bf;  // [m, kp]
};

Problem make(const Case& c, uint64_t stream) {
  Random random(c.seed, stream);
  Problem p{random_matrix(random, c.type, c.n, c.k), random_floats(random, c.m * c.k), {}};
  if (c.type != DType::kBF16) return p;
  const uint64_t padded = (c.k + 1) / 2 * 2;
  p.x_bf.assign(c.m * padded, 0);
  for (uint64_t m = 0; m < c.m; ++m) {
    for (uint64_t k = 0; k < c.k; ++k) {
      p.x_bf[m * padded + k] = f32_to_bf16(p.x[m * c.k + k]);
      p.x[m * c.k + k] = bf16_to_f32(p.x_bf[m * padded + k]);
    }
  }
  return p;
}

// Rows [row, row + rows) of the problem times panels of outputs [n0, n1).
void run(const Kernels& table, const Case& c, const Problem& p, const std::byte* panels,
         uint64_t row, uint64_t rows, uint64_t n0, uint64_t n1, float* y, unsigned threads) {
  const void* x = c.type == DType::kBF16
                      ? static_cast<const void*>(p.x_bf.data() + row * ((c.k + 1) / 2 * 2))
                      : p.x.data() + row * c.k;
  table.matmul(pool_of(threads), {.x = x,
                                  .w = panels + n0 / kPanelRows * panel_bytes(c.type, c.k),
                                  .w_type = c.type,
                                  .m = rows,
                                  .k = c.k,
                                  .n = n1 - n0,
                                  .y = y,
                                  .y_stride = c.y_stride});
}

constexpr float kUntouched = 12345.5f;

TEST(Matmul, EveryTableAgreesWithDoubles) {
  uint64_t stream = 100;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p = make(c, ++stream);
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      const std::vector<std::byte> panels = packed(*table, p.w);
      std::vector<float> y(c.m * c.y_stride, kUntouched);
      run(*table, c, p, panels.data(), 0, c.m, 0, c.n, y.data(), c.threads);
      for (uint64_t m = 0; m < c.m; ++m) {
        for (uint64_t n = 0; n < c.n; ++n) {
          double exact = 0, size = 0;
          for (uint64_t k = 0; k < c.k; ++k) {
            const double term = double{p.x[m * c.k + k]} * p.w.values[n * c.k + k];
            exact += term;
            size += std::abs(term);
          }
          // Random rounding of a chain of k sums grows like sqrt(k); twelve of its deviations.
          const double bound = 6e-8 * (4 + 4 * std::sqrt(double(c.k))) * size;
          ASSERT_NEAR(y[m * c.y_stride + n], exact, bound) << "row " << m << " output " << n;
        }
        for (uint64_t n = c.n; n < c.y_stride; ++n) {
          ASSERT_EQ(y[m * c.y_stride + n], kUntouched) << "wrote past the row";
        }
      }
    }
  }
}

TEST(Matmul, FusedTablesHaveTheBitsOfTheReference) {
  uint64_t stream = 100;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p = make(c, ++stream);
    const std::vector<std::byte> panels = packed(reference(), p.w);
    std::vector<float> expected(c.m * c.y_stride, kUntouched);
    run(reference(), c, p, panels.data(), 0, c.m, 0, c.n, expected.data(), 1);
    for (const Kernels* table : runnable_tables()) {
      const std::string isa = table->isa;
      // "scalar" rounds products, which are exact only from bfloat16; the bfloat16 instruction of
      // "avx512" rounds in its own way.
      if (isa == "scalar" && c.type != DType::kBF16) continue;
      if (isa == "avx512" && c.type == DType::kBF16) continue;
      std::vector<float> y(c.m * c.y_stride, kUntouched);
      run(*table, c, p, panels.data(), 0, c.m, 0, c.n, y.data(), c.threads);
      ASSERT_TRUE(same_bits(y, expected)) << isa;
    }
  }
}

TEST(Matmul, BitsOfARowDependOnNothingElse) {
  uint64_t stream = 500;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p = make(c, ++stream);
    Random random(c.seed, 10000 + stream);
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      const std::vector<std::byte> panels = packed(*table, p.w);
      std::vector<float> all(c.m * c.y_stride, kUntouched);
      run(*table, c, p, panels.data(), 0, c.m, 0, c.n, all.data(), 1);
      for (unsigned threads = 2; threads <= 3; ++threads) {
        std::vector<float> y(all.size(), kUntouched);
        run(*table, c, p, panels.data(), 0, c.m, 0, c.n, y.data(), threads);
        ASSERT_TRUE(same_bits(y, all)) << threads << " threads";
      }
      std::vector<float> cut(all.size(), kUntouched);  // any cut of rows and of outputs
      for (uint64_t row = 0; row < c.m;) {
        const uint64_t rows = random.between(1, c.m - row);
        for (uint64_t n = 0; n < c.n;) {
          const uint64_t next = std::min(c.n, n + kPanelRows * random.between(1, 9));
          run(*table, c, p, panels.data(), row, rows, n, next, cut.data() + row * c.y_stride + n,
              static_cast<unsigned>(random.between(1, 3)));
          n = next;
        }
        row += rows;
      }
      ASSERT_TRUE(same_bits(cut, all)) << "cut into calls";
    }
  }
}

// Any products beside each other, of many and of few rows, have the bits that each has alone.
TEST(Matmul, BitsOfManyProductsTogetherAreThoseOfEach) {
  Random random(test_seed(), 4);
  for (int round = 0; round < test_count(30); ++round) {
    std::vector<Case> list;
    const uint64_t count = random.chance(0.2) ? random.between(60, 140) : random.between(0, 12);
    const DType only = std::array{DType::kF32, DType::kBF16, DType::kF16}[round % 3];
    const bool many_rows = random.chance(0.4);
    for (uint64_t i = 0; i < count; ++i) {
      const bool other = random.chance(0.1);
      Case c{.seed = test_seed(),
             .type = random.chance(0.1) ? DType::kF32 : only,
             .m = other       ? random.between(0, 20)
                  : many_rows ? random.between(7, 160)
                              : random.between(1, 3),
             .n = random.between(1, random.chance(0.2) ? 300 : 90),
             .k = random.between(1, random.chance(0.2) ? 700 : 90),
             .y_stride = 0,
             .threads = static_cast<unsigned>(random.between(1, 3))};
      c.y_stride = c.n + random.below(3);
      list.push_back(c);
    }
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(testing::Message()
                   << table->isa << " round " << round << " of seed " << test_seed());
      std::vector<Problem> problems;
      std::vector<std::vector<std::byte>> panels;
      std::vector<std::vector<float>> alone, together;
      std::vector<MatmulArgs> products;
      for (const Case& c : list) {
        problems.push_back(make(c, 9000 + problems.size()));
        panels.push_back(packed(*table, problems.back().w));
        alone.emplace_back((c.m + 1) * c.y_stride, kUntouched);
        together.push_back(alone.back());
      }
      for (size_t i = 0; i < list.size(); ++i) {
        const Case& c = list[i];
        const Problem& p = problems[i];
        run(*table, c, p, panels[i].data(), 0, c.m, 0, c.n, alone[i].data(), 1);
        products.push_back(
            {.x = c.type == DType::kBF16 ? static_cast<const void*>(p.x_bf.data()) : p.x.data(),
             .w = panels[i].data(),
             .w_type = c.type,
             .m = c.m,
             .k = c.k,
             .n = c.n,
             .y = together[i].data(),
             .y_stride = c.y_stride});
      }
      table->matmul_each(pool_of(1 + round % 3), {products.data(), uint32_t(products.size())});
      for (size_t i = 0; i < list.size(); ++i) {
        ASSERT_TRUE(same_bits(together[i], alone[i])) << "product " << i << ": " << list[i];
      }
    }
  }
}

TEST(Matmul, TakesNoRowsAndPropagatesNan) {
  Random random(test_seed(), 3);
  for (DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Case c{test_seed(), type, 3, 40, 33, 40, 1};
    Problem p = make(c, 77);
    if (type == DType::kBF16) {
      p.x_bf[34 + 5] = 0x7fc0;
    } else {
      p.x[33 + 5] = NAN;
    }
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      const std::vector<std::byte> panels = packed(*table, p.w);
      std::vector<float> y(c.m * c.y_stride, kUntouched);
      run(*table, c, p, panels.data(), 0, 0, 0, c.n, y.data(), 1);
      EXPECT_EQ(y[0], kUntouched);
      run(*table, c, p, panels.data(), 0, c.m, 0, c.n, y.data(), 1);
      for (uint64_t n = 0; n < c.n; ++n) {
        EXPECT_FALSE(std::isnan(y[n]));
        EXPECT_TRUE(std::isnan(y[c.y_stride + n]));
        EXPECT_FALSE(std::isnan(y[2 * c.y_stride + n]));
      }
    }
  }
}

}  // namespace
}  // namespace headrace::kernels
