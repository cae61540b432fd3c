#include <numeric>

#include "tests/kernels/common.h"

namespace headrace::kernels {
namespace {

// Sequences with tokens to append and to attend with, in blocks of which all that nobody wrote is
// NaN, so that a kernel that reads too far shows.
struct World {
  uint64_t seed, stream;
  DType type;
  uint64_t heads, kv_heads, head_dim;
  uint32_t window;
  float softcap;
  float scale;
  Bytes layer_offset;
  std::vector<uint32_t> lengths;
  std::vector<float> q, k, v;  // of all tokens, sequence after sequence
  std::vector<uint32_t> sequence;
  std::vector<int32_t> positions;
  uint64_t k_stride;

  uint64_t rows() const { return sequence.size(); }
};

std::ostream& operator<<(std::ostream& out, const World& w) {
  out << "HEADRACE_TEST_SEED=" << w.seed << " stream " << w.stream << ' ' << name_of(w.type)
      << " H=" << w.heads << " G=" << w.kv_heads << " D=" << w.head_dim << " window=" << w.window
      << " softcap=" << w.softcap << " lengths";
  for (uint32_t length : w.lengths) out << ' ' << length;
  return out;
}

World make(uint64_t stream) {
  World w{};
  w.seed = test_seed();
  w.stream = stream;
  Random random(w.seed, stream);
  w.type = random.chance(0.5) ? DType::kF32 : DType::kBF16;
  w.kv_heads = random.between(1, 3);
  w.heads = w.kv_heads * (random.chance(0.1) ? random.between(9, 20) : random.between(1, 8));
  const uint64_t dims[] = {16, 32, 64, 80, 128, random.between(1, 140)};
  w.head_dim = random.chance(0.05) ? random.between(250, 300) : dims[random.below(6)];
  w.window = random.chance(0.4) ? static_cast<uint32_t>(random.between(1, 90)) : 0;
  w.softcap = random.chance(0.3) ? 0.5f * static_cast<float>(random.between(1, 100)) : 0;
  // Now and then scores so large that only one token counts.
  w.scale = random.chance(0.2) ? 30.0f : 1 / std::sqrt(static_cast<float>(w.head_dim));
  w.layer_offset = 64 * random.below(3);
  for (uint64_t s = random.between(1, 3); s > 0; --s) {
    w.lengths.push_back(static_cast<uint32_t>(random.between(1, random.chance(0.5) ? 40 : 130)));
    for (uint32_t p = 0; p < w.lengths.back(); ++p) {
      w.sequence.push_back(static_cast<uint32_t>(w.lengths.size() - 1));
      w.positions.push_back(static_cast<int32_t>(p));
    }
  }
  w.k_stride = w.kv_heads * w.head_dim + random.below(5);
  w.q = random_floats(random, w.rows() * w.heads * w.head_dim);
  w.k = random_floats(random, w.rows() * w.k_stride);
  w.v = random_floats(random, w.rows() * w.k_stride);
  return w;
}

struct Cache {
  explicit Cache(const World& w) {
    const Bytes bytes = w.layer_offset + kv_layer_block_bytes(w.type, w.kv_heads, w.head_dim);
    for (uint32_t length : w.lengths) {
      std::vector<std::byte*>& list = lists.emplace_back();
      for (uint32_t token = 0; token < length; token += kKvBlockTokens) {
        blocks.emplace_back(bytes, std::byte{0xff});
        list.push_back(blocks.back().data());
      }
    }
    for (const auto& list : lists) sequences.push_back({list.data()});
  }
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::vector<std::byte*>> lists;
  std::vector<SequenceKv> sequences;
};

void append(const Kernels& table, const World& w, Cache& cache, uint64_t row, uint64_t rows,
            unsigned threads = 1) {
  table.kv_append(pool_of(threads), {.k = w.k.data() + row * w.k_stride,
                                     .v = w.v.data() + row * w.k_stride,
                                     .k_stride = w.k_stride,
                                     .v_stride = w.k_stride,
                                     .sequence = w.sequence.data() + row,
                                     .positions = w.positions.data() + row,
                                     .sequences = cache.sequences.data(),
                                     .layer_offset = w.layer_offset,
                                     .kv_type = w.type,
                                     .rows = rows,
                                     .kv_heads = w.kv_heads,
                                     .head_dim = w.head_dim});
}

// Attention of the rows named, in that order, in one call.
std::vector<float> attend(const Kernels& table, const World& w, const Cache& cache,
                          const std::vector<uint64_t>& rows, unsigned threads) {
  const uint64_t width = w.heads * w.head_dim;
  const uint64_t stride = width + 3;
  std::vector<float> q(rows.size() * stride), out(rows.size() * width, NAN);
  std::vector<uint32_t> sequence;
  std::vector<int32_t> positions;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(w.q.data() + rows[i] * width, width, q.data() + i * stride);
    sequence.push_back(w.sequence[rows[i]]);
    positions.push_back(w.positions[rows[i]]);
  }
  table.attention(pool_of(threads), {.q = q.data(),
                                     .q_stride = stride,
                                     .out = out.data(),
                                     .sequence = sequence.data(),
                                     .positions = positions.data(),
                                     .sequences = cache.sequences.data(),
                                     .layer_offset = w.layer_offset,
                                     .kv_type = w.type,
                                     .rows = rows.size(),
                                     .heads = w.heads,
                                     .kv_heads = w.kv_heads,
                                     .head_dim = w.head_dim,
                                     .scale = w.scale,
                                     .window = w.window,
                                     .softcap = w.softcap});
  return out;
}

std::vector<uint64_t> all_rows(const World& w) {
  std::vector<uint64_t> rows(w.rows());
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

TEST(Attention, EveryTableAgreesWithTheReference) {
  for (int i = 0; i < test_count(25); ++i) {
    const World w = make(1000 + i);
    SCOPED_TRACE(testing::Message() << w);
    Cache cache(w);
    append(reference(), w, cache, 0, w.rows());
    const std::vector<float> expected = attend(reference(), w, cache, all_rows(w), 2);
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      Cache own(w);
      append(*table, w, own, 0, w.rows(), 2);
      for (size_t b = 0; b < own.blocks.size(); ++b) {
        ASSERT_TRUE(same_bits(own.blocks[b], cache.blocks[b])) << "block " << b;
      }
      const std::vector<float> out = attend(*table, w, own, all_rows(w), 1 + i % 3);
      // Values are of size 1; a score off by 1e-6 of its size moves a weight by as much.
      const float bound = w.scale > 1 ? 4e-3f : 4e-6f;
      for (size_t j = 0; j < out.size(); ++j) {
        ASSERT_NEAR(out[j], expected[j], bound) << "row " << j / (w.heads * w.head_dim);
      }
    }
  }
}

TEST(Attention, BitsOfARowDependOnNothingElse) {
  for (int i = 0; i < test_count(20); ++i) {
    const World w = make(2000 + i);
    SCOPED_TRACE(testing::Message() << w);
    const uint64_t width = w.heads * w.head_dim;
    Random random(w.seed, 3000 + i);
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      Cache cache(w);
      append(*table, w, cache, 0, w.rows());
      const std::vector<float> all = attend(*table, w, cache, all_rows(w), 1);

      std::vector<uint64_t> order = all_rows(w);
      for (size_t j = order.size(); j > 1; --j) std::swap(order[j - 1], order[random.below(j)]);
      const std::vector<float> mixed = attend(*table, w, cache, order, 3);
      for (size_t j = 0; j < order.size(); ++j) {
        ASSERT_TRUE(same_bits(&mixed[j * width], &all[order[j] * width], width))
            << "row " << order[j] << " at place " << j;
      }
    }
  }
}

TEST(Attention, DecodeHasTheBitsOfPrefill) {
  for (int i = 0; i < test_count(12); ++i) {
    const World w = make(4000 + i);
    SCOPED_TRACE(testing::Message() << w);
    const uint64_t width = w.heads * w.head_dim;
    for (const Kernels* table : runnable_tables()) {
      SCOPED_TRACE(table->isa);
      Cache whole(w), grown(w);
      append(*table, w, whole, 0, w.rows());
      const std::vector<float> prefill = attend(*table, w, whole, all_rows(w), 2);
      for (uint64_t row = 0; row < w.rows(); ++row) {  // each token sees only what came before
        append(*table, w, grown, row, 1);
        const std::vector<float> decode = attend(*table, w, grown, {row}, 1);
        ASSERT_TRUE(same_bits(decode.data(), &prefill[row * width], width)) << "row " << row;
      }
    }
  }
}

}  // namespace
}  // namespace headrace::kernels
