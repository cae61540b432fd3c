#include "engine/usage.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace::engine {
namespace {

scheduler::Workload workload_of(uint32_t layers, uint32_t experts) {
  scheduler::Workload w;
  for (uint32_t l = 0; l < layers; ++l) {
    SegmentSpec segment{.id = l, .kind = SegmentKind::kExperts, .layer = l, .choices_per_row = 2};
    for (uint32_t e = 0; e < experts; ++e) {
      segment.candidates.push_back(static_cast<ObjectId>(w.objects.size()));
      w.objects.push_back({.id = segment.candidates.back(), .chunks = {kBlock}});
    }
    w.segments.push_back(segment);
  }
  return w;
}

Usage random_usage(Random& random, const scheduler::Workload& workload) {
  Usage out = empty_usage(workload);
  for (Usage::Layer& layer : out.layers) {
    layer.rows = random.below(1000);
    for (uint64_t& picks : layer.picks) picks = random.below(layer.rows + 1);
  }
  for (uint64_t kinds = random.below(5); kinds > 0; --kinds) {
    add_passes(out, {.rows = random.between(1, 600),
                     .count = random.between(1, 1000),
                     .picked = random.below(kMillion + 1),
                     .missed = random.below(kMillion + 1),
                     .even = random.below(kMillion + 1)});
  }
  return out;
}

TEST(Usage, ReadsBackWhatItWrote) {
  for (uint64_t i = 0; i < test::cases(50); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const auto w = workload_of(static_cast<uint32_t>(random.between(1, 5)),
                               static_cast<uint32_t>(random.between(1, 9)));
    const Usage usage = random_usage(random, w);
    Usage read = empty_usage(w);
    ASSERT_TRUE(parse_usage(print_usage(usage), read));
    EXPECT_EQ(read, usage);
  }
}

// A damaged text is read as it is or not at all; what is read never exceeds its bounds.
TEST(Usage, DamageIsAsGoodAsNone) {
  for (uint64_t i = 0; i < test::cases(300); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    const auto w = workload_of(3, 4);
    const Usage usage = random_usage(random, w);
    std::string text = print_usage(usage);
    switch (random.below(3)) {
      case 0:
        text.resize(random.below(text.size()));
        break;
      case 1:
        text[random.below(text.size())] = static_cast<char>(random.below(256));
        break;
      default:
        text.insert(random.below(text.size()), "99999999999999999999");
    }
    const Usage none = empty_usage(w);
    Usage read = none;
    if (!parse_usage(text, read)) {
      EXPECT_EQ(read, none);
      continue;
    }
    for (const Usage::Passes& p : read.passes) {
      EXPECT_GT(p.rows * p.count, 0u);
      EXPECT_LE(std::max({p.picked, p.missed, p.even}), kMillion);
    }
    for (const Usage::Layer& layer : read.layers) {
      for (uint64_t picks : layer.picks) EXPECT_LE(picks, layer.rows);
    }
  }
}

TEST(Usage, AnotherModelsIsRefused) {
  Random random(test::seed(), 0);
  const Usage usage = random_usage(random, workload_of(3, 4));
  for (const auto& [layers, experts] : {std::pair{2u, 4u}, {4u, 4u}, {3u, 3u}, {3u, 5u}}) {
    Usage read = empty_usage(workload_of(layers, experts));
    EXPECT_FALSE(parse_usage(print_usage(usage), read)) << layers << " " << experts;
  }
}

TEST(Usage, OldRunsFade) {
  Usage usage = empty_usage(workload_of(1, 2));
  usage.layers[0] = {5u << 20, {4u << 20, 1u << 20}};
  age(usage);
  EXPECT_LE(usage.layers[0].rows, 1u << 20);
  EXPECT_EQ(usage.layers[0].picks[0], 4 * usage.layers[0].picks[1]);
  Usage read = empty_usage(workload_of(1, 2));
  EXPECT_TRUE(parse_usage(print_usage(usage), read));
}

TEST(Usage, PassesOfAKindAreAveragedAndOldKindsForgotten) {
  Usage usage = empty_usage(workload_of(1, 2));
  add_passes(usage,
             {.rows = 8, .count = 10, .picked = 300'000, .missed = 100'000, .even = 500'000});
  add_passes(usage,
             {.rows = 8, .count = 30, .picked = 300'000, .missed = 500'000, .even = 505'000});
  ASSERT_EQ(usage.passes.size(), 1u);  // the same pool
  EXPECT_EQ(usage.passes[0].count, 40u);
  EXPECT_EQ(usage.passes[0].missed, 400'000u);
  for (int i = 0; i < 100; ++i) {  // what was seen long ago fades
    add_passes(usage, {.rows = 8, .count = 100, .picked = 300'000, .missed = 0, .even = 504'000});
  }
  EXPECT_LT(usage.passes[0].missed, 1000u);
  add_passes(usage, {.rows = 8, .count = 1, .picked = 1, .missed = 1, .even = 900'000});
  EXPECT_EQ(usage.passes.size(), 2u);  // another pool
  for (uint64_t rows = 100; rows < 300; ++rows) {
    add_passes(usage, {.rows = rows, .count = 1, .picked = 1, .missed = 1, .even = 1});
  }
  EXPECT_LE(usage.passes.size(), 64u);
  EXPECT_EQ(usage.passes.back().rows, 299u);
  Usage read = empty_usage(workload_of(1, 2));
  ASSERT_TRUE(parse_usage(print_usage(usage), read));
  EXPECT_EQ(read, usage);
}

// What was seen of a model stands before what others are like, which stands for what was not seen.
TEST(Usage, LocalityIsThatOfTheModelWhereItWasSeen) {
  const auto w = workload_of(2, 8);
  EXPECT_TRUE(localities(empty_usage(workload_of(0, 1)), workload_of(0, 1)).empty());
  const auto others = localities(empty_usage(w), w);
  ASSERT_FALSE(others.empty());
  for (const scheduler::Locality& l : others) {
    EXPECT_GT(l.doubt, 0);
    EXPECT_LE(l.missed, l.even);
  }
  Usage usage = empty_usage(w);
  add_passes(usage, {.rows = 4, .count = 9, .picked = 250'000, .missed = 20'000, .even = 500'000});
  const auto seen = localities(usage, w);
  ASSERT_EQ(seen.size(), others.size() + 1);
  EXPECT_EQ(seen[0].rows, 4u);
  EXPECT_EQ(seen[0].doubt, 0);
  EXPECT_DOUBLE_EQ(seen[0].missed, 0.02);
  EXPECT_DOUBLE_EQ(seen[0].picked, 0.25);
}

TEST(Usage, AFileIsReplacedWholeAndNeverRequired) {
  const std::string folder = ::testing::TempDir() + "usage-" + std::to_string(test::seed());
  std::filesystem::create_directories(folder);
  const std::string path = folder + "/usage";
  const auto w = workload_of(2, 3);
  EXPECT_EQ(read_usage(path, w), empty_usage(w));
  Random random(test::seed(), 1);
  const Usage usage = random_usage(random, w);
  write_usage(path, usage);
  EXPECT_EQ(read_usage(path, w), usage);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  // Another run is writing, or was killed: this one leaves the file alone, the next one does not.
  std::ofstream(path + ".new") << "half";
  write_usage(path, empty_usage(w));
  EXPECT_EQ(read_usage(path, w), usage);
  write_usage(path, empty_usage(w));
  EXPECT_EQ(read_usage(path, w), empty_usage(w));
  std::ofstream(path) << "something else";
  EXPECT_EQ(read_usage(path, w), empty_usage(w));
  write_usage(folder + "/no/such/folder/usage", usage);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace headrace::engine
