// Sizes, names, conversions, checked arithmetic, random numbers, errors and clocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "core/checked.h"
#include "core/clock.h"
#include "core/digest.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/half.h"
#include "core/random.h"
#include "core/tier.h"
#include "tests/support/seed.h"

namespace headrace {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

TEST(ParseBytes, ReadsEveryUnitInAnyCase) {
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_EQ(parse_bytes("4096B"), 4096u);
  EXPECT_EQ(parse_bytes("8GiB"), 8 * kGiB);
  EXPECT_EQ(parse_bytes("8gib"), 8 * kGiB);
  EXPECT_EQ(parse_bytes("8G"), 8 * kGiB);
  EXPECT_EQ(parse_bytes("500MB"), 500'000'000u);
  EXPECT_EQ(parse_bytes("1kb"), 1000u);
  EXPECT_EQ(parse_bytes("1k"), 1024u);
  EXPECT_EQ(parse_bytes("1.5GiB"), 3 * kGiB / 2);
  EXPECT_EQ(parse_bytes("0.5KiB"), 512u);
  EXPECT_EQ(parse_bytes("2TB"), 2'000'000'000'000u);
  EXPECT_EQ(parse_bytes("2TiB"), 2048 * kGiB);
  EXPECT_EQ(parse_bytes("0.000000001GB"), 1u);
  EXPECT_EQ(parse_bytes("18446744073709551615"), kMax);
  EXPECT_EQ(parse_bytes("16777215TiB"), kMax - 1024 * kGiB + 1);
}

TEST(ParseBytes, ReadsShares) {
  EXPECT_EQ(parse_bytes("90%", 1000), 900u);
  EXPECT_EQ(parse_bytes("12.5%", 1000), 125u);
  EXPECT_EQ(parse_bytes("100%", kMax), kMax);
  EXPECT_EQ(parse_bytes("0%", kMax), 0u);
  EXPECT_EQ(parse_bytes("33%", 100), 33u);
  EXPECT_EQ(parse_bytes("90%"), std::nullopt);
  EXPECT_EQ(parse_bytes("101%", 1000), std::nullopt);
  EXPECT_EQ(parse_bytes("100.1%", 1000), std::nullopt);
}

TEST(ParseBytes, RefusesEverythingElse) {
  for (const char* text : {"",
                           " ",
                           "-1",
                           "+1",
                           "1 GiB",
                           " 1GiB",
                           "1GiB ",
                           "1.GiB",
                           ".5GiB",
                           "1..5GiB",
                           "1.5",
                           "1.5B",
                           "1e3",
                           "0x10",
                           "nan",
                           "inf",
                           "GiB",
                           "B",
                           "1GiBB",
                           "1GB/s",
                           "1,5GiB",
                           "1_000",
                           "1Gi",
                           "1PiB",
                           "18446744073709551616",
                           "16777216TiB",
                           "99999999999999999999GiB",
                           "1.1234567890GiB",
                           "1\n",
                           "%",
                           "1%%",
                           "1KiB%",
                           "\xd9\xa1"}) {
    EXPECT_EQ(parse_bytes(text), std::nullopt) << '"' << text << '"';
    EXPECT_EQ(parse_bytes(text, 1000), std::nullopt) << '"' << text << '"';
  }
  EXPECT_EQ(parse_bytes(std::string_view("1\0", 2)), std::nullopt);
}

TEST(ParseBytes, PrintsAndReadsBack) {
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(20'000); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const Bytes bytes = random.next_u64() >> random.below(64);
    EXPECT_EQ(parse_bytes(std::to_string(bytes)), bytes);
    const std::string text = format_bytes(bytes);
    const size_t blank = text.find(' ');
    ASSERT_NE(blank, std::string::npos) << text;
    EXPECT_LE(std::count_if(text.begin(), text.begin() + static_cast<ptrdiff_t>(blank), isdigit),
              4);
    if (bytes >= 1024 * kGiB) continue;  // "EiB" is printed but is no budget
    const auto read = parse_bytes(text.substr(0, blank) + text.substr(blank + 1));
    ASSERT_TRUE(read) << text;
    EXPECT_NEAR(static_cast<double>(*read), static_cast<double>(bytes),
                static_cast<double>(bytes) * 0.0051 + 1.5)  // two digits cut, then whole bytes
        << text;
  }
}

TEST(FormatBytes, ShowsThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(17), "17 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1 KiB");
  EXPECT_EQ(format_bytes(512 * kMiB), "512 MiB");
  EXPECT_EQ(format_bytes(13 * kGiB / 4), "3.25 GiB");
  EXPECT_EQ(format_bytes(8 * kGiB), "8 GiB");
  EXPECT_EQ(format_bytes(kMiB - 1), "1 MiB");
  EXPECT_EQ(format_bytes(12345 * kMiB / 1000), "12.3 MiB");
  EXPECT_EQ(format_bytes(kMax), "16 EiB");
}

TEST(Names, ReadBack) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < kTiers; ++i) {
    const auto tier = static_cast<Tier>(i);
    EXPECT_EQ(parse_tier(name_of(tier)), tier);
    names.insert(name_of(tier));
  }
  for (size_t i = 0; i < kKinds; ++i) {
    const auto kind = static_cast<Kind>(i);
    EXPECT_EQ(parse_kind(name_of(kind)), kind);
    names.insert(name_of(kind));
  }
  EXPECT_EQ(names.size(), kTiers + kKinds);
  EXPECT_EQ(name_of(Edge{Tier::kDisk, Tier::kHost}), "disk->host");
  EXPECT_EQ(name_of(Kind::kActivationGradients), "activation_gradients");
  EXPECT_EQ(parse_tier("Host"), std::nullopt);
  EXPECT_EQ(parse_kind(""), std::nullopt);
  for (unsigned i = 0; i <= static_cast<unsigned>(DType::kBool); ++i) {
    const auto type = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(name_of(type)), type);
    EXPECT_EQ(parse_dtype(safetensors_name(type)), type);
  }
  EXPECT_EQ(size_of(DType::kBF16), 2u);
  EXPECT_EQ(size_of(DType::kF64), 8u);
  EXPECT_EQ(parse_dtype("torch.float32"), std::nullopt);
  EXPECT_EQ(parse_dtype("f32"), std::nullopt);
  EXPECT_EQ(name_of(ErrorCode::kInfeasible), "infeasible");
}

TEST(Half, EveryBF16SurvivesTheRoundTrip) {
  for (uint32_t x = 0; x <= 0xffff; ++x) {
    const float wide = bf16_to_f32(static_cast<uint16_t>(x));
    const uint32_t expected = std::isnan(wide) ? x | 0x40u : x;
    ASSERT_EQ(f32_to_bf16(wide), expected) << x;
  }
}

TEST(Half, EveryF16SurvivesTheRoundTrip) {
  for (uint32_t x = 0; x <= 0xffff; ++x) {
    const float wide = f16_to_f32(static_cast<uint16_t>(x));
    const uint32_t mantissa = x & 0x3ffu;
    const int exponent = static_cast<int>((x >> 10) & 0x1f);
    const bool is_nan = exponent == 0x1f && mantissa != 0;
    ASSERT_EQ(std::isnan(wide), is_nan) << x;
    ASSERT_EQ(f32_to_f16(wide), is_nan ? x | 0x200u : x) << x;
    if (exponent == 0x1f) continue;
    // The definition of the format, in arithmetic that is exact.
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0 + mantissa, exponent - 25);
    ASSERT_EQ(static_cast<double>(wide), (x & 0x8000u) != 0 ? -magnitude : magnitude) << x;
  }
}

// The nearest of the two neighbours, found by search over all f16, is what rounding must give.
TEST(Half, RoundsToNearestEven) {
  Random random(test::seed(), 1);
  for (uint64_t i = 0; i < test::cases(200'000); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const auto below = static_cast<uint16_t>(random.below(0x7c00));
    const auto above = static_cast<uint16_t>(below + 1);  // may be infinity: 2^16 in this sense
    const double a = f16_to_f32(below);
    const double b = above == 0x7c00 ? 65536.0 : f16_to_f32(above);
    const double middle = (a + b) / 2;  // exact in f32 as well: one bit more than f16
    const auto even = (below & 1u) == 0 ? below : above;
    const auto f = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(f), middle);
    ASSERT_EQ(f32_to_f16(f), even);
    ASSERT_EQ(f32_to_f16(-f), even | 0x8000u);
    ASSERT_EQ(f32_to_f16(std::nextafter(f, 0.0f)), below);
    ASSERT_EQ(f32_to_f16(std::nextafter(f, 1e30f)), above);
    const uint32_t bits = static_cast<uint32_t>(random.below(0x7f80)) << 16;
    const auto low = static_cast<uint16_t>(bits >> 16);
    const auto even_bf16 = static_cast<uint16_t>((low & 1u) == 0 ? low : low + 1);
    ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits | 0x8000u)), even_bf16);
    ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits | 0x7fffu)), low);
    ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits | 0x8001u)), low + 1);
  }
  EXPECT_EQ(f32_to_f16(1e30f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(Checked, NeverWraps) {
  EXPECT_EQ(checked_add(kMax, 0), kMax);
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_mul(kMax, 1), kMax);
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(checked_product({}), 1u);
  const uint64_t zero_last[] = {kMax, kMax, 0};
  EXPECT_EQ(checked_product(zero_last), 0u);
  const uint64_t wraps_to_zero[] = {uint64_t{1} << 32, uint64_t{1} << 32};
  EXPECT_EQ(checked_product(wraps_to_zero), std::nullopt);
  const uint64_t exact[] = {3, 5, kMax / 15};
  EXPECT_EQ(checked_product(exact), kMax / 15 * 15);
}

// Known answers of the publication's own test program (Random123, kat_vectors, philox4x32-10).
TEST(Philox, KnownAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(kMax, kMax, kMax), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, IsThePureFunction) {
  Random random(7, 11);
  for (uint64_t counter = 0; counter < 100; ++counter) {
    for (uint32_t word : philox(7, 11, counter)) EXPECT_EQ(random.next_u32(), word);
  }
}

TEST(RandomStream, StaysInBoundsAndFillsThem) {
  Random random(test::seed(), 2);
  for (uint64_t i = 0; i < test::cases(20'000); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const uint64_t bound = 1 + (random.next_u64() >> random.below(64)) % kMax;
    ASSERT_LT(random.below(bound), bound);
    const double u = random.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
  }
  std::array<unsigned, 7> counts{};
  for (int i = 0; i < 70'000; ++i) ++counts[random.between(10, 16) - 10];
  for (unsigned count : counts) EXPECT_NEAR(count, 10'000, 500);  // 5 deviations
}

TEST(RandomStream, NormalHasItsMoments) {
  Random random(5);
  double sum = 0, squares = 0, fourth = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.012);
  EXPECT_NEAR(squares / kDraws, 1, 0.016);
  EXPECT_NEAR(fourth / kDraws, 3, 0.12);
}

TEST(ErrorTest, CarriesWhatTheJsonReportNeeds) {
  try {
    throw Error(ErrorCode::kInfeasible, "memory: too small; give 3 GiB")
        .at_path("model")
        .at_field("--memory")
        .requiring(3 * kGiB);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInfeasible);
    EXPECT_STREQ(e.what(), "memory: too small; give 3 GiB");
    EXPECT_EQ(e.path(), "model");
    EXPECT_EQ(e.field(), "--memory");
    EXPECT_EQ(e.required_bytes(), 3 * kGiB);
  }
}

TEST(ErrorDeathTest, AssertionPrintsItsValues) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(HEADRACE_ASSERT(1 + 1 == 3, "values " + std::to_string(42)),
               "assertion failed: 1 \\+ 1 == 3 at .*numbers_test.cpp:[0-9]+: values 42");
  EXPECT_DEATH(HEADRACE_ASSERT(false), "assertion failed: false");
}

TEST(Clocks, MoveForward) {
  const uint64_t first = steady_clock().now_ns();
  uint64_t next = first;
  while (next == first) next = steady_clock().now_ns();
  EXPECT_GT(next, first);
  VirtualClock clock;
  clock.advance_to(5);
  clock.advance_to(3);
  EXPECT_EQ(clock.now_ns(), 5u);
  EXPECT_DOUBLE_EQ(clock.seconds(), 5e-9);
}

}  // namespace
}  // namespace headrace
