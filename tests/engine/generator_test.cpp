// A request's tokens are its own: whatever runs beside it, however many run at a time, whatever it
// shares with others. And what is shared is computed once.
#include "engine/generator.h"

#include <gtest/gtest.h>

#include <map>

#include "engine/kv_cache.h"
#include "tests/engine/small_models.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

using engine::Completion;
using engine::Generator;
using engine::KvCache;
using engine::Request;
using engine::SessionOptions;
using kernels::kKvBlockTokens;

// Requests of which some begin with the same tokens, some are equal, and most are neither.
std::vector<Request> random_requests(Random& random, uint64_t vocabulary, size_t count) {
  const std::vector<int32_t> head = test::random_ids(random, vocabulary, random.between(30, 100));
  std::vector<Request> requests;
  for (size_t i = 0; i < count; ++i) {
    Request r;
    if (!requests.empty() && random.chance(0.15)) {
      r.prompt = requests[random.below(requests.size())].prompt;
    } else if (random.chance(0.6)) {
      r.prompt.assign(head.begin(),
                      head.begin() + static_cast<ptrdiff_t>(random.between(1, head.size())));
    }
    if (r.prompt.empty() || random.chance(0.7)) {
      const auto more = test::random_ids(random, vocabulary, random.between(1, 50));
      r.prompt.insert(r.prompt.end(), more.begin(), more.end());
    }
    r.sampling.max_tokens = static_cast<uint32_t>(random.below(9));
    r.sampling.temperature = random.chance(0.5) ? 0.9 : 0.0;
    r.sampling.seed = random.next_u64();
    r.sampling.ignore_eos = true;
    requests.push_back(r);
  }
  return requests;
}

struct Ran {
  std::vector<std::vector<int32_t>> tokens;
  engine::GeneratorTimings timings;
};

Ran run(const std::string& model, const SessionOptions& options,
        const std::vector<Request>& requests, bool share) {
  engine::Session session(engine::open_model(model), 0, options, Generator::demand(requests));
  Generator generator(session, {.share_prefixes = share});
  Ran out;
  for (const Completion& c : generator.run(requests)) out.tokens.push_back(c.token_ids);
  out.timings = generator.timings();
  const uint32_t free = session.kv().free_blocks();
  EXPECT_EQ(free, session.plan().kv_blocks) << "blocks were lost";
  return out;
}

TEST(Generator, TokensAreThoseOfEachRequestAlone) {
  Random random(test::seed(), 21);
  uint64_t reused = 0;
  for (uint64_t index = 0; index < test::cases(6); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const test::TempFolder folder;
    const std::string model = folder.path_of("m");
    const char* families[] = {"llama", "qwen3", "mixtral"};
    test::make_model(model, random, families[index % 3], index % 2 ? "bfloat16" : "float32");
    const auto requests =
        random_requests(random, test::vocabulary_of(model), random.between(2, 14));
    SessionOptions whole;
    whole.store = folder.path_of("stores"), whole.cache = folder.path_of("cache");
    whole.threads = 1;
    whole.memory = 2 * kGiB;
    std::vector<std::vector<int32_t>> alone;
    for (const Request& r : requests) alone.push_back(run(model, whole, {r}, false).tokens[0]);
    for (const bool share : {false, true}) {
      for (const uint32_t at_once : {0u, 1u, 3u}) {
        SCOPED_TRACE(testing::Message() << "share " << share << " at once " << at_once);
        SessionOptions o = whole;
        o.max_sequences = at_once;
        if (random.chance(0.5)) {
          std::vector<Request> copy = requests;
          o.memory = test::smallest_budget(model, o, copy) + random.below(kMiB) / kBlock * kBlock;
        }
        const Ran ran = run(model, o, requests, share);
        EXPECT_EQ(ran.tokens, alone);
        EXPECT_EQ(ran.timings.reused_tokens % kKvBlockTokens, 0u);
        if (!share) {
          EXPECT_EQ(ran.timings.reused_tokens, 0u);
        }
        reused += ran.timings.reused_tokens;
      }
    }
  }
  EXPECT_GT(reused, 0u);
}

// Ten equal prompts: the first is computed, of the others only what its full blocks leave.
TEST(Generator, AnEqualPromptIsComputedOnce) {
  Random random(test::seed(), 22);
  const test::TempFolder folder;
  const std::string model = folder.path_of("m");
  test::make_model(model, random, "llama", "bfloat16");
  Request request;
  request.prompt = test::random_ids(random, test::vocabulary_of(model), 3 * kKvBlockTokens + 5);
  request.sampling = {.max_tokens = 4, .ignore_eos = true};
  const std::vector<Request> requests(10, request);
  SessionOptions o;
  o.store = folder.path_of("stores"), o.cache = folder.path_of("cache");
  o.memory = kGiB;
  for (const uint32_t at_once : {1u, 4u, 10u}) {
    SCOPED_TRACE(at_once);
    o.max_sequences = at_once;
    const Ran ran = run(model, o, requests, true);
    EXPECT_EQ(ran.timings.prompt_tokens, 10 * request.prompt.size());
    EXPECT_EQ(ran.timings.reused_tokens, 9u * 3 * kKvBlockTokens);
  }
}

// ---- the cache alone, against a model that keeps every block's tokens

struct Pretend {
  std::vector<std::byte> memory;
  KvCache kv;
  explicit Pretend(uint32_t blocks, uint32_t sequences, uint32_t each)
      : memory(blocks), kv(memory, 1, blocks, sequences, each) {}
  uint32_t block(uint32_t sequence, size_t index) const {
    return static_cast<uint32_t>(kv.sequences()[sequence].blocks[index] - memory.data());
  }
};

TEST(KvCache, SharedBlocksHoldWhatTheirReadersExpect) {
  Random random(test::seed(), 23);
  for (uint64_t index = 0; index < test::cases(40); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const auto blocks = static_cast<uint32_t>(random.between(4, 40));
    const auto most = static_cast<uint32_t>(random.between(1, 8));
    const uint32_t each = std::min(blocks, 6u);
    Pretend p(blocks, most, each);
    // What a block was filled with: the whole prompt up to its end.
    std::map<uint32_t, std::vector<int32_t>> content;
    struct Open {
      uint32_t sequence;
      std::vector<int32_t> prompt;
      uint64_t fed, total;
    };
    std::vector<Open> open;
    for (int round = 0; round < 200; ++round) {
      if (open.size() < most && random.chance(0.5)) {
        Open o{.sequence = p.kv.open(), .prompt = {}, .fed = 0, .total = 0};
        const uint64_t length = random.between(1, each * kKvBlockTokens);
        for (uint64_t i = 0; i < length; ++i)  // few different blocks, so that many are shared
          o.prompt.push_back(i % kKvBlockTokens == 0 ? static_cast<int32_t>(random.below(2)) : 7);
        o.total = random.between(length, each * kKvBlockTokens);
        o.fed = p.kv.share(o.sequence, o.prompt);
        EXPECT_LT(o.fed, length);
        if (!p.kv.reserve(o.sequence, o.total)) {
          p.kv.close(o.sequence);
          continue;
        }
        p.kv.publish(o.sequence, o.prompt);
        open.push_back(o);
      }
      for (size_t i = 0; i < open.size();) {
        Open& o = open[i];
        if (o.fed < o.prompt.size()) {
          if (p.kv.shared_is_filled(o.sequence)) {
            for (size_t b = 0; b < o.fed / kKvBlockTokens; ++b) {  // what it attends to
              const std::vector<int32_t> expected(
                  o.prompt.begin(),
                  o.prompt.begin() + static_cast<ptrdiff_t>((b + 1) * kKvBlockTokens));
              ASSERT_EQ(content[p.block(o.sequence, b)], expected);
            }
            o.fed = std::min<uint64_t>(o.prompt.size(), o.fed + random.between(1, 70));
            for (size_t b = 0; b < o.fed / kKvBlockTokens; ++b) {
              content[p.block(o.sequence, b)].assign(
                  o.prompt.begin(),
                  o.prompt.begin() + static_cast<ptrdiff_t>((b + 1) * kKvBlockTokens));
            }
            p.kv.set_filled(o.sequence, o.fed);
          }
        } else if (o.fed < o.total) {
          ASSERT_TRUE(p.kv.grow(o.sequence, ++o.fed)) << "set aside, and not there";
          if (o.fed % kKvBlockTokens == 1)
            content[p.block(o.sequence, o.fed / kKvBlockTokens)] = {};
        }
        const bool ends = o.fed >= o.prompt.size() && (o.fed == o.total || random.chance(0.1));
        if (ends) p.kv.close(o.sequence);
        if (ends) open.erase(open.begin() + static_cast<ptrdiff_t>(i));
        if (!ends) ++i;
      }
    }
    for (const Open& o : open) p.kv.close(o.sequence);
    EXPECT_EQ(p.kv.free_blocks(), blocks);
  }
}

}  // namespace
}  // namespace headrace
