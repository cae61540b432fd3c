// What may vary without a trace: the lengths of runs of chunks, how rows are cut into passes and
// who shares a pass, the order of experts, the number of threads, the size of the buffers.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/models/in_memory.h"
#include "tests/support/seed.h"

namespace headrace::models {
namespace {

constexpr uint32_t kSequences = 3;
constexpr uint32_t kTokensMax = 80;

using Sequences = std::vector<std::vector<int32_t>>;
using Logits = std::vector<std::vector<std::vector<float>>>;  // [sequence][position][vocabulary]

Sequences random_sequences(const ModelConfig& config, Random& random) {
  Sequences sequences(kSequences);
  for (auto& tokens : sequences) {
    tokens.resize(random.between(1, kTokensMax));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(config.vocab_size));
  }
  return sequences;
}

// Passes whose rows `take` chooses: how many of the tokens left in each sequence.
template <typename Take>
Logits run(const InMemoryModel& model, const Execution& execution, const Sequences& sequences,
           const Take& take) {
  Runner runner(model, execution, kSequences, kTokensMax);
  Logits logits(kSequences);
  std::vector<size_t> done(kSequences);
  while (true) {
    std::vector<Row> rows;
    for (uint32_t s = 0; s < kSequences; ++s) {
      const size_t left = sequences[s].size() - done[s];
      for (size_t i = left == 0 ? 0 : take(s, left); i > 0; --i, ++done[s]) {
        rows.push_back({.sequence = s,
                        .token = sequences[s][done[s]],
                        .position = static_cast<int32_t>(done[s])});
      }
    }
    if (rows.empty()) return logits;
    const auto out = runner.pass(rows);
    for (size_t m = 0; m < rows.size(); ++m) logits[rows[m].sequence].push_back(out[m]);
  }
}

void expect_same_bits(const Logits& a, const Logits& b) {
  for (uint32_t s = 0; s < kSequences; ++s) {
    ASSERT_EQ(a[s].size(), b[s].size());
    for (size_t t = 0; t < a[s].size(); ++t) {
      ASSERT_EQ(std::memcmp(a[s][t].data(), b[s][t].data(), a[s][t].size() * sizeof(float)), 0)
          << "sequence " << s << ", token " << t;
    }
  }
}

class BitsTest : public testing::Test {
 protected:
  void each_model(const std::function<void(const InMemoryModel&, const kernels::Kernels&,
                                           const Sequences&, Random&)>& check) {
    for (uint64_t i = 0; i < test::cases(10); ++i) {
      Random random(test::seed(), i);
      const json::object json = random_config(random);
      SCOPED_TRACE(test::seed_note(i) + ": " + to_text(json));
      const ModelConfig config = parse_config(json, "random");
      const auto model = pack_model(config, random_tensors(config, random.next_u64()));
      const auto tables = kernels::tables();
      const kernels::Kernels* table = tables[random.below(tables.size())];
      if (!kernels::supported(*table)) table = tables.back();
      SCOPED_TRACE(table->isa);
      check(*model, *table, random_sequences(config, random), random);
      if (HasFatalFailure()) return;
    }
  }
};

TEST_F(BitsTest, PassesRunsThreadsAndExpertsLeaveNoTrace) {
  ThreadPool one(1), three(3);
  each_model([&](const InMemoryModel& model, const kernels::Kernels& table,
                 const Sequences& sequences, Random& random) {
    const Logits whole = run(model, {.kernels = &table, .pool = &one}, sequences,
                             [](uint32_t, size_t left) { return left; });
    for (const auto& rows : whole) {
      for (const auto& row : rows) {
        for (const float x : row) ASSERT_TRUE(std::isfinite(x));
      }
    }
    for (uint32_t only = 0; only < kSequences; ++only) {  // alone, whole
      Sequences single(kSequences);
      single[only] = sequences[only];
      Logits expected(kSequences);
      expected[only] = whole[only];
      expect_same_bits(expected, run(model, {.kernels = &table, .pool = &three}, single,
                                     [](uint32_t, size_t left) { return left; }));
    }
    const Execution varied{
        .kernels = &table, .pool = &three, .random = &random, .extra_rows = random.below(5)};
    expect_same_bits(whole,
                     run(model, varied, sequences, [](uint32_t, size_t) { return size_t{1}; }));
    expect_same_bits(whole, run(model, varied, sequences, [&](uint32_t, size_t left) {
                       return static_cast<size_t>(random.between(1, left));
                     }));
  });
}

// Rows that nobody asked the logits of change nothing for the others.
TEST_F(BitsTest, UnwantedRowsLeaveNoTrace) {
  ThreadPool pool(2);
  each_model([&](const InMemoryModel& model, const kernels::Kernels& table,
                 const Sequences& sequences, Random& random) {
    std::vector<Row> all;
    for (size_t t = 0; t < sequences[0].size(); ++t) {
      all.push_back({.token = sequences[0][t], .position = static_cast<int32_t>(t)});
    }
    const Execution execution{.kernels = &table, .pool = &pool, .random = &random};
    const auto complete = Runner(model, execution, 1, kTokensMax).pass(all);
    std::vector<std::vector<float>> expected;
    for (size_t t = 0; t < all.size(); ++t) {
      all[t].wanted = random.chance(0.3);
      if (all[t].wanted) expected.push_back(complete[t]);
    }
    const auto some = Runner(model, execution, 1, kTokensMax).pass(all);
    ASSERT_EQ(some.size(), expected.size());
    for (size_t i = 0; i < some.size(); ++i) {
      ASSERT_EQ(std::memcmp(some[i].data(), expected[i].data(), some[i].size() * 4), 0);
    }
  });
}

// The engine reserves fixed + rows * a + outputs * b bytes, from three samples.
TEST_F(BitsTest, ActivationBytesAreAffine) {
  each_model(
      [&](const InMemoryModel& model, const kernels::Kernels&, const Sequences&, Random& random) {
        const Decoder& d = *model.decoder;
        const Bytes per_row = d.activation_bytes(2, 1) - d.activation_bytes(1, 1);
        const Bytes per_output = d.activation_bytes(1, 2) - d.activation_bytes(1, 1);
        const uint32_t rows = static_cast<uint32_t>(random.between(1, 5000));
        const uint32_t outputs = static_cast<uint32_t>(random.between(0, rows));
        EXPECT_EQ(d.activation_bytes(rows, outputs) + per_output,
                  d.activation_bytes(1, 1) + (rows - 1) * per_row + outputs * per_output);
      });
}

}  // namespace
}  // namespace headrace::models
