// Keys and values that spill: the same tokens and logits whatever --kv-memory, with every byte
// predicted; caps are kept or refused with what would do.
#include <gtest/gtest.h>

#include <fstream>

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

constexpr const char* kFamilies[] = {"llama", "gemma2", "qwen2", "gemma3", "mistral", "mixtral"};
constexpr Edge kIn{Tier::kDisk, Tier::kHost};

Case make_case(Random& random, const test::TempFolder& folder, uint64_t index) {
  return test::random_case(random, folder, index,
                           {.family = kFamilies[index % std::size(kFamilies)],
                            .requests_max = 6,
                            .prompt_max = 120,
                            .tokens_max = 24,
                            .ignores_end = 0.8});
}

struct Spilled {
  test::RunResult result;
  scheduler::Plan plan;
};

Spilled run(const Case& c, const SessionOptions& options) {
  engine::ModelFolder folder = engine::open_model(c.model);
  std::vector<Request> requests = c.requests;
  engine::Generator::check(folder.config, requests);
  engine::Session session(std::move(folder), 0, options, engine::Generator::demand(requests));
  engine::Generator generator(session);
  Spilled out;
  for (const engine::Completion& done : generator.run(requests)) {
    out.result.tokens.push_back(done.token_ids);
  }
  out.result.counted = session.counted();
  out.result.predicted = session.predicted();
  out.plan = session.plan();
  return out;
}

// The least that --kv-memory can be, as its refusal tells.
Bytes least_kv(const Case& c, SessionOptions options) {
  options.kv_memory = 1;
  try {
    run(c, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
    return error.required_bytes();
  }
  ADD_FAILURE() << "one byte was enough";
  return 0;
}

TEST(KvSpill, AnyCapTheSameTokensAndEveryBytePredicted) {
  Random random(test::seed(), 1);
  uint64_t spilled = 0, capped = 0;
  for (uint64_t index = 0; index < test::cases(6); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    SessionOptions whole = c.base;
    whole.memory = 4 * kGiB;
    const Spilled in_memory = run(c, whole);
    EXPECT_TRUE(in_memory.plan.kv.streamed.empty());
    if (engine::open_model(c.model).config.layers < 2) continue;
    const Bytes least = least_kv(c, whole), all = in_memory.plan.memory.kv;
    ASSERT_LE(least, all);
    for (uint64_t v = 0; v < 4; ++v) {
      SessionOptions o = whole;
      o.kv_memory = v == 0 ? least : least + random.below(all - least + 1);
      const char* policies[] = {"auto", "pin", "stream", "lru", "sync"};
      o.choices.policy = policies[random.below(5)];
      o.io_engine = random.chance(0.5) ? "io_uring" : "pread";
      o.threads = static_cast<unsigned>(random.between(1, 3));
      if (random.chance(0.3)) o.device_memory = random.between(2, 6) * kMiB;
      SCOPED_TRACE("kv_memory " + std::to_string(*o.kv_memory) + " of " + std::to_string(all) +
                   " policy " + o.choices.policy + " device " +
                   std::to_string(o.device_memory.value_or(0)));
      Spilled capped_run;
      try {
        capped_run = run(c, o);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInfeasible || !o.device_memory) throw;
        o.device_memory = error.required_bytes();
        capped_run = run(c, o);
      }
      EXPECT_EQ(capped_run.result.tokens, in_memory.result.tokens);
      EXPECT_LE(capped_run.plan.memory.kv, *o.kv_memory);
      expect_exact(capped_run.result);
      spilled += sum_of(capped_run.result.counted, kIn, Kind::kKv) > 0;
      ++capped;
    }
  }
  EXPECT_GT(capped, 0u);
  EXPECT_GT(spilled, 0u);
}

TEST(KvSpill, LogitsOfALongPromptAreTheSameBits) {
  Random random(test::seed(), 2);
  for (uint64_t index = 0; index < test::cases(4); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const Case c = make_case(random, folder, index);
    if (engine::open_model(c.model).config.layers < 2) continue;
    SessionOptions options = c.base;
    options.memory = 4 * kGiB;
    const auto ids = test::random_ids(random, test::vocabulary_of(c.model), 100);
    const std::vector<float> whole = test::logits_of(c.model, options, ids);
    options.kv_memory = 1;
    try {
      test::logits_of(c.model, options, ids);
      FAIL() << "one byte was enough";
    } catch (const Error& error) {
      options.kv_memory = error.required_bytes();
    }
    const std::vector<float> spilled = test::logits_of(c.model, options, ids);
    ASSERT_EQ(whole.size(), spilled.size());
    EXPECT_EQ(0, std::memcmp(whole.data(), spilled.data(), whole.size() * sizeof(float)));
  }
}

// What the kernel read from disks, or wrote to them, for this process.
Bytes kernel_bytes(const char* which) {
  std::ifstream file("/proc/self/io");
  for (std::string key; file >> key;) {
    Bytes value = 0;
    file >> value;
    if (key == which) return value;
  }
  return 0;
}

TEST(KvSpill, CountedEqualsWhatTheKernelCounted) {
  Random random(test::seed(), 4);
  const test::TempFolder folder;
  for (uint64_t index = 0; index < test::cases(3); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const Case c = make_case(random, folder, index);
    if (engine::open_model(c.model).config.layers < 2) continue;
    SessionOptions options = c.base;
    options.memory = 4 * kGiB;
    options.kv_memory = least_kv(c, options);
    options.io_engine = random.chance(0.5) ? "io_uring" : "pread";
    std::vector<Request> requests = c.requests;
    engine::Session session(engine::open_model(c.model), 0, options,
                            engine::Generator::demand(requests));
    engine::Generator generator(session);
    const auto ours = [&](bool read) {
      Bytes sum = 0;
      for (const auto& row : session.counted()) {
        sum += (read ? row.edge.from : row.edge.to) == Tier::kDisk ? row.bytes : 0;
      }
      return sum;
    };
    const Bytes read = ours(true), kernel_read = kernel_bytes("read_bytes:");
    const Bytes written = ours(false), kernel_written = kernel_bytes("write_bytes:");
    generator.run(requests);
    const Bytes moved = ours(true) - read;
    const Bytes counted = kernel_bytes("read_bytes:") - kernel_read;
    if (counted == 0 && moved != 0) GTEST_SKIP() << "this filesystem does no direct I/O";
    EXPECT_EQ(moved, counted);
    EXPECT_GT(ours(false), written);
    // The filesystem may write down, once, where the file lies.
    const Bytes more = kernel_bytes("write_bytes:") - kernel_written - (ours(false) - written);
    EXPECT_LE(more, 64 * kKiB);
  }
}

// What no row sees any more stays on disk: of a model with windows a run reads less, with layers
// that slide beside layers that do not.
TEST(KvSpill, BlocksBeforeAWindowAreNotRead) {
  const test::TempFolder folder;
  const auto read_with = [&](uint64_t window) {
    Random random(test::seed(), 6);
    Case c;
    c.model = folder.path_of("window" + std::to_string(window));
    json::object shape{{"num_hidden_layers", 4},   {"hidden_size", 64}, {"intermediate_size", 64},
                       {"num_attention_heads", 4}, {"head_dim", 16},    {"vocab_size", 300},
                       {"sliding_window", window}};
    shape["num_key_value_heads"] = 2;
    shape["layer_types"] = json::array{"sliding_attention", "full_attention", "sliding_attention",
                                       "sliding_attention"};
    engine::synthesize(c.model, {.family = "gemma3", .set = shape, .dtype = "float32"}, {});
    Request request;
    request.prompt = test::random_ids(random, 300, 250);
    request.sampling.max_tokens = 4;
    request.sampling.ignore_eos = true;
    c.requests.push_back(request);
    c.base.store = folder.path_of("stores");
    c.base.cache = folder.path_of("cache");
    c.base.threads = 1;
    c.base.memory = 4 * kGiB;
    SessionOptions options = c.base;
    options.kv_memory = least_kv(c, options);
    const Spilled spilled = run(c, options);
    EXPECT_EQ(spilled.plan.kv.streamed.size(), 4u);
    expect_exact(spilled.result);
    EXPECT_EQ(spilled.result.tokens, run(c, c.base).result.tokens);
    return sum_of(spilled.result.counted, kIn, Kind::kKv) / spilled.plan.kv.block_bytes;
  };
  // Tokens 250, 251 and 252, the first output's passes after the prompt's, of which none reads:
  // eight blocks are before each, and a window of 40 tokens meets two of them.
  EXPECT_EQ(read_with(1000), 3 * 4 * 8);
  EXPECT_EQ(read_with(40), 3 * (8 + 3 * 2));
}

// With memory for everything, and layers of which one can stream.
Case layered_case(Random& random, const test::TempFolder& folder) {
  Case c = make_case(random, folder, 0);
  while (engine::open_model(c.model).config.layers < 2) c = make_case(random, folder, 5);
  c.base.memory = 4 * kGiB;
  return c;
}

// With one slot a layer is read when the one before has been written back.
TEST(KvSpill, WaitsForWritesAreNotSaidToBeForReads) {
  Random random(test::seed(), 5);
  const test::TempFolder folder;
  const Case c = layered_case(random, folder);
  SessionOptions options = c.base;
  options.disk_rate = 2e7;
  const auto written_s = [&] {
    engine::Session session(engine::open_model(c.model), 0, options,
                            engine::Generator::demand(c.requests));
    engine::Generator(session).run(c.requests);
    const engine::ExecutorCounters& counters = session.executor().counters();
    double sum = 0;
    for (double s : counters.stall_s) sum += s;
    EXPECT_DOUBLE_EQ(sum, counters.stalled_s());
    EXPECT_EQ(counters.stall_s[static_cast<size_t>(engine::StallCause::kCopy)], 0.0);
    return counters.stall_s[static_cast<size_t>(engine::StallCause::kDiskWrite)];
  };
  EXPECT_EQ(written_s(), 0.0);
  options.kv_memory = least_kv(c, options);
  EXPECT_GT(written_s(), 0.0);
}

TEST(KvSpill, TooLittleDiskIsRefusedBeforeAnythingIsMade) {
  Random random(test::seed(), 3);
  const test::TempFolder folder;
  const Case c = layered_case(random, folder);
  SessionOptions options = c.base;
  options.kv_memory = least_kv(c, options);
  options.disk_memory = 4 * kKiB;
  try {
    run(c, options);
    FAIL() << "no store fits into that";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
    options.disk_memory = error.required_bytes();
  }
  EXPECT_EQ(run(c, options).result.tokens.size(), c.requests.size());
}

}  // namespace
}  // namespace headrace
