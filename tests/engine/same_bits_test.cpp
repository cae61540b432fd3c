// Any budget, the same bits; predicted bytes equal counted bytes. Random models, budgets, policies,
// depths, I/O engines, thread counts, batches, two tiers and three.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "engine/convert.h"
#include "models/weights.h"
#include "tests/engine/random_case.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

using engine::Request;
using engine::SessionOptions;
using test::Case;
using test::expect_exact;
using test::sum_of;

Case make_case(Random& random, const test::TempFolder& folder, uint64_t index) {
  const char* family = models::families()[index % models::families().size()].name;
  return test::random_case(
      random, folder, index,
      {.family = family, .requests_max = 4, .prompt_max = 40, .tokens_max = 8});
}

// Whether its tensors lie as rows that can be packed as they come.
bool runs_in_place(const std::string& model) {
  for (const auto& object : models::layout_of(engine::open_model(model).config).objects) {
    if (!std::all_of(object.parts.begin(), object.parts.end(), engine::is_contiguous)) return false;
  }
  return true;
}

// What may differ from run to run without changing a bit.
SessionOptions vary(Random& random, const Case& c) {
  SessionOptions o = c.base;
  const char* policies[] = {"auto", "pin", "stream", "lru", "sync"};
  o.choices.policy = policies[random.below(5)];
  if (random.chance(0.5) && o.choices.policy != "sync") {
    o.choices.prefetch_depth = static_cast<uint32_t>(random.below(6));
  }
  o.io_engine = random.chance(0.5) ? "io_uring" : "pread";
  o.threads = static_cast<unsigned>(random.between(1, 3));
  if (random.chance(0.3) && runs_in_place(c.model)) o.store = "none";
  if (random.chance(0.3)) o.device_memory = random.between(1, 6) * 512 * kKiB;
  return o;
}

std::string describe(const SessionOptions& o) {
  return "store " + o.store + " memory " + std::to_string(o.memory.value_or(0)) + " policy " +
         o.choices.policy + " depth " +
         (o.choices.prefetch_depth ? std::to_string(*o.choices.prefetch_depth) : "auto") + " io " +
         o.io_engine + " threads " + std::to_string(o.threads) + " device " +
         std::to_string(o.device_memory.value_or(0));
}

TEST(SameBits, AnyBudgetPolicyDepthEngineThreadsAndTiers) {
  Random random(test::seed(), 1);
  uint64_t configurations = 0;
  for (uint64_t index = 0; index < test::cases(10); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    SessionOptions whole = c.base;
    whole.memory = 4 * kGiB;
    const test::RunResult in_memory = test::run({c.model, whole, c.requests});
    expect_exact(in_memory);
    for (uint64_t v = 0; v < 11; ++v) {
      SessionOptions o = vary(random, c);
      const Bytes least = test::smallest_budget(c.model, o, c.requests);
      ASSERT_GT(least, 0u) << describe(o);
      const Bytes room = engine::open_model(c.model).config.layers * 2 * kMiB;
      o.memory = v == 0 ? least : least + random.below(room) / kBlock * kBlock;
      SCOPED_TRACE(describe(o));
      const test::RunResult result = test::run({c.model, o, c.requests});
      EXPECT_EQ(result.tokens, in_memory.tokens);
      expect_exact(result);
      ++configurations;
    }
  }
  RecordProperty("configurations", static_cast<int>(configurations));
  EXPECT_GE(configurations, 100u);
}

TEST(SameBits, LogitsAreEqualToTheBit) {
  Random random(test::seed(), 2);
  for (uint64_t index = 0; index < test::cases(5); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    const auto ids = test::random_ids(random, test::vocabulary_of(c.model), random.between(2, 60));
    SessionOptions whole = c.base;
    whole.memory = 4 * kGiB;
    const std::vector<float> expected = test::logits_of(c.model, whole, ids);
    for (int v = 0; v < 3; ++v) {
      SessionOptions o = vary(random, c);
      o.memory = test::smallest_budget(c.model, o, {{ids, {.max_tokens = 1}, {}}}) +
                 random.below(3 * kMiB);
      SCOPED_TRACE(describe(o));
      const std::vector<float> got = test::logits_of(c.model, o, ids);
      ASSERT_EQ(got.size(), expected.size());
      EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
    }
  }
}

TEST(SameBits, ARequestAloneEqualsTheRequestInABatch) {
  Random random(test::seed(), 3);
  for (uint64_t index = 0; index < test::cases(5); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    SessionOptions whole = c.base;
    whole.memory = 4 * kGiB;
    const test::RunResult together = test::run({c.model, whole, c.requests});
    for (size_t r = 0; r < c.requests.size(); ++r) {
      EXPECT_EQ(test::run({c.model, whole, {c.requests[r]}}).tokens[0], together.tokens[r]);
    }
  }
}

// A model eight times the device: the same tokens as in one tier at every prefetch depth, dense and
// sparse, and the device holds no more than its cap (D-C1).
TEST(SameBits, AModelEightTimesTheDevice) {
  Random random(test::seed(), 8);
  for (const char* family : {"llama", "mixtral"}) {
    SCOPED_TRACE(family);
    const test::TempFolder folder;
    const std::string model = folder.path_of("m");
    engine::synthesize(model,
                       {.family = family,
                        .set = {{"hidden_size", 512},
                                {"intermediate_size", 1408},
                                {"num_hidden_layers", 8},
                                {"num_attention_heads", 8},
                                {"num_key_value_heads", 4},
                                {"head_dim", 64},
                                {"vocab_size", 2000},
                                {"num_local_experts", 6},
                                {"num_experts_per_tok", 2}},
                        .dtype = "float32",
                        .seed = random.next_u64()},
                       {});
    std::vector<Request> requests(2);
    for (Request& r : requests) {
      r.prompt = test::random_ids(random, 2000, random.between(3, 30));
      r.sampling = {.max_tokens = 6, .ignore_eos = true};
    }
    SessionOptions o;
    o.store = folder.path_of("stores");
    o.cache = folder.path_of("cache");
    o.memory = 2 * kGiB;
    const test::RunResult whole = test::run({model, o, requests});
    const Bytes weights = sum_of(whole.counted, {Tier::kDisk, Tier::kHost}, Kind::kWeights);
    for (uint32_t depth : {0u, 1u, 2u}) {
      SCOPED_TRACE(depth);
      o.device_memory = weights / 8;
      o.choices = {.policy = depth == 0 ? "auto" : "pin", .prefetch_depth = depth};
      for (Bytes memory : {2 * kGiB, 0 * kGiB}) {
        o.memory = memory != 0 ? memory : test::smallest_budget(model, o, requests) + 2 * kMiB;
        const test::RunResult result = test::run({model, o, requests});
        EXPECT_EQ(result.tokens, whole.tokens);
        expect_exact(result);
        EXPECT_LE(result.device_bytes, weights / 8);
        EXPECT_GT(result.device_bytes, 0u);
      }
    }
  }
}

// More chunks in flight, and more of them staying on the host of a device, than the executor holds
// tickets: it used to wait for tickets that nobody would give back.
TEST(SameBits, ThousandsOfChunksAheadDoNotHang) {
  Random random(test::seed(), 10);
  const test::TempFolder folder;
  const std::string model = folder.path_of("m");
  engine::synthesize(model,
                     {.family = "llama",
                      .set = {{"hidden_size", 16},
                              {"intermediate_size", 16},
                              {"num_hidden_layers", 600},
                              {"num_attention_heads", 2},
                              {"num_key_value_heads", 1},
                              {"head_dim", 8},
                              {"vocab_size", 300}},
                      .dtype = "float32",
                      .seed = random.next_u64()},
                     {});
  const std::vector<Request> requests = {
      {test::random_ids(random, 300, 5), {.max_tokens = 4, .ignore_eos = true}, {}}};
  SessionOptions o;
  o.store = folder.path_of("stores");
  o.cache = folder.path_of("cache");
  o.memory = 2 * kGiB;
  const test::RunResult whole = test::run({model, o, requests});
  o.choices = {.policy = "stream", .prefetch_depth = 1500};
  const test::RunResult deep = test::run({model, o, requests});
  EXPECT_EQ(deep.tokens, whole.tokens);
  expect_exact(deep);
  o.choices = {.policy = "auto", .prefetch_depth = 1};
  o.device_memory = 6 * kMiB;  // what is bound once and a ring; the rest stays on the host
  const test::RunResult staged = test::run({model, o, requests});
  EXPECT_EQ(staged.tokens, whole.tokens);
  expect_exact(staged);
}

TEST(Refused, NamesTheSmallestBudgetAndThatOneWorks) {
  Random random(test::seed(), 4);
  for (uint64_t index = 0; index < test::cases(5); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    SessionOptions o = c.base;
    const Bytes least = test::smallest_budget(c.model, o, c.requests);
    EXPECT_EQ(least, test::smallest_budget(c.model, o, c.requests));
    o.memory = least;
    EXPECT_NO_THROW(test::run({c.model, o, c.requests}));
    o.memory = least - 4 * kMiB;
    try {
      test::run({c.model, o, c.requests});
      FAIL() << "ran in 4 MiB less than the smallest budget";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInfeasible);
      EXPECT_EQ(e.required_bytes(), least);
    }
  }
}

// When everything streams, a decode pass moves each encoded byte of the dense weights once, padding
// included; twice the sequences move not a byte more (D-C2).
TEST(Exact, APassMovesEveryEncodedByteWhateverTheBatch) {
  Random random(test::seed(), 12);
  const test::TempFolder folder;
  const Case c = make_case(random, folder, 0);
  for (size_t batch : {1, 2, 4}) {
    SCOPED_TRACE(batch);
    std::vector<Request> requests(batch);
    for (Request& r : requests) {
      r.prompt = {1, 2, 3};
      r.sampling = {.max_tokens = 8, .ignore_eos = true};
    }
    SessionOptions o = c.base;
    o.choices.policy = "stream";
    o.memory = test::smallest_budget(c.model, o, requests) + 4 * kMiB;
    engine::Session session(engine::open_model(c.model), 0, o, engine::Generator::demand(requests));
    engine::Generator generator(session);
    engine::RequestList list(requests);
    generator.start(list, list);
    for (int i = 0; i < 3; ++i) generator.step();
    Bytes encoded = 0;
    for (const SegmentSpec& segment : session.workload().segments) {
      if (segment.kind != SegmentKind::kDense) continue;
      for (ObjectId id : segment.weights) {
        const ObjectSpec& object = session.workload().objects[id];
        if (!object.always_resident) encoded += object.bytes();
      }
    }
    const auto moved = [&] {  // without what the tokens decided
      Bytes sum = 0;
      for (const auto& row : session.counted()) sum += row.bytes;
      return sum - session.replay().bytes();
    };
    ASSERT_GT(encoded, 0u);
    Bytes before = moved();
    uint64_t passes = session.executor().counters().passes;
    for (int i = 0; i < 3; ++i) generator.step();
    passes = session.executor().counters().passes - passes;
    EXPECT_EQ(moved() - before, passes * encoded);
  }
}

// Bytes that the kernel read from disks for this process.
Bytes kernel_read_bytes() {
  std::ifstream file("/proc/self/io");
  for (std::string key; file >> key;) {
    Bytes value = 0;
    file >> value;
    if (key == "read_bytes:") return value;
  }
  return 0;
}

TEST(Exact, CountedEqualsWhatTheKernelCounted) {
  Random random(test::seed(), 5);
  const test::TempFolder folder;
  for (uint64_t index = 0; index < 5; ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const Case c = make_case(random, folder, index);
    for (const bool device : {false, true}) {
      const char* engine = random.chance(0.5) ? "io_uring" : "pread";
      SCOPED_TRACE(device ? "a device, staged" : "two tiers");
      SessionOptions o = c.base;
      o.io_engine = engine;
      if (device) o.device_memory = 2 * kMiB;
      o.memory = test::smallest_budget(c.model, o, c.requests) + random.below(2 * kMiB);
      engine::ModelFolder model = engine::open_model(c.model);
      std::vector<Request> requests = c.requests;
      engine::Session session(std::move(model), 0, o, engine::Generator::demand(requests));
      engine::Generator generator(session);
      session.counted();  // drains, so that nothing is in flight at the first mark
      const auto disk = [&] {
        Bytes sum = 0;
        for (const auto& row : session.counted())
          sum += row.edge.from == Tier::kDisk ? row.bytes : 0;
        return sum;
      };
      const Bytes kernel_before = kernel_read_bytes(), ours_before = disk();
      generator.run(requests);
      const Bytes ours = disk() - ours_before;  // drains before the second mark
      const Bytes kernel = kernel_read_bytes() - kernel_before;
      if (kernel == 0 && ours != 0) GTEST_SKIP() << "this filesystem does no direct I/O";
      EXPECT_EQ(ours, kernel) << engine;
    }
  }
}

}  // namespace
}  // namespace headrace
