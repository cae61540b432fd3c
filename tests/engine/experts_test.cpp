// Only routed experts are paged: what a run reads is what its routers picked, pass by pass.
#include <gtest/gtest.h>

#include <set>

#include "tests/engine/small_models.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

struct Routed {
  uint64_t distinct = 0;  // experts, summed over passes and layers
  uint64_t ever = 0;      // experts that any pass picked
  engine::ExpertCounts counts;
  Bytes expert = 0;   // bytes of one
  Bytes counted = 0;  // by the ledger
  Bytes fixed = 0;    // of opening, of what the plan alone decides, and the embedding's rows
  Bytes predicted = 0;
  scheduler::HoleBytes range;  // of what data decide
  Bytes decided = 0;           // by the replay
  std::vector<std::vector<int32_t>> tokens;
};

// `watched`: by an observer of routes, who sees every row.
Routed run(const std::string& model, const engine::SessionOptions& options, uint64_t prompts,
           bool watched = true) {
  Random random(test::seed(), 9);
  std::vector<engine::Request> requests(prompts);
  for (engine::Request& r : requests) {
    r.prompt = test::random_ids(random, test::vocabulary_of(model), 20);
    r.sampling = {.max_tokens = 24, .ignore_eos = true};
  }
  engine::Session session(engine::open_model(model), 0, options,
                          engine::Generator::demand(requests));
  Routed out;
  std::set<std::pair<uint32_t, uint32_t>> ever;
  if (watched) {
    session.set_route_observer([&](uint32_t layer, std::span<const uint32_t> experts) {
      out.distinct += std::set<uint32_t>(experts.begin(), experts.end()).size();
      for (uint32_t e : experts) ever.insert({layer, e});
    });
  }
  engine::Generator generator(session);
  for (const auto& done : generator.run(requests)) out.tokens.push_back(done.token_ids);
  for (const auto& row : session.counted()) {
    out.counted += row.bytes;
    if (row.kind == Kind::kMetadata) out.fixed += row.bytes;
  }
  for (const auto& row : session.predicted()) out.predicted += row.bytes;
  out.ever = ever.size();
  out.counts = session.replay().experts();
  out.range = session.replay().range();
  out.decided = session.replay().bytes();
  const scheduler::Plan& plan = session.plan();
  for (const auto& row : scheduler::bytes_of(plan.enter)) out.fixed += row.bytes;
  for (const auto& row : scheduler::bytes_of(plan.steady)) {
    out.fixed += row.bytes * session.executor().counters().passes;
  }
  uint32_t experts_pool = kNone;
  for (const scheduler::Hole& hole : plan.holes) {
    if (hole.source == scheduler::Source::kRouter) experts_pool = hole.pool;
  }
  for (uint32_t p = 0; p < plan.pools.size(); ++p) {
    if (p != experts_pool) out.fixed += session.replay().rows()[p].bytes;
  }
  for (const SegmentSpec& segment : session.workload().segments) {
    if (segment.kind != SegmentKind::kExperts) continue;
    out.expert = session.workload().objects[segment.candidates[0]].bytes();
  }
  return out;
}

class Experts : public ::testing::Test {
 protected:
  void SetUp() override {
    engine::synthesize(folder_.path_of("m"),
                       {.family = "mixtral",
                        .set = {{"hidden_size", 128},
                                {"intermediate_size", 256},
                                {"num_hidden_layers", 4},
                                {"num_attention_heads", 4},
                                {"num_key_value_heads", 2},
                                {"num_local_experts", 16},
                                {"num_experts_per_tok", 2},
                                {"vocab_size", 500},
                                {"max_position_embeddings", 256}},
                        .dtype = "bfloat16",
                        .seed = test::seed()},
                       {});
    options_.store = folder_.path_of("stores");
    options_.cache = folder_.path_of("cache");
    options_.memory = 2 * kGiB;
  }
  test::TempFolder folder_;
  engine::SessionOptions options_;
};

// With slots for one token's choices, nothing survives until its layer's next turn: bytes are the
// distinct experts of each batch and layer.
TEST_F(Experts, AStreamReadsTheDistinctExpertsOfEachBatch) {
  options_.choices.policy = "stream";
  for (uint64_t prompts : {1, 3}) {
    SCOPED_TRACE(prompts);
    const Routed r = run(folder_.path_of("m"), options_, prompts);
    EXPECT_EQ(r.counts.hits, 0u);
    EXPECT_EQ(r.counts.misses, r.distinct);
    EXPECT_EQ(r.counted, r.fixed + r.distinct * r.expert);
    EXPECT_EQ(r.counted, r.predicted);
  }
}

// In the last layer, a prompt's rows whose logits nobody wants pick no experts.
TEST_F(Experts, TheLastLayerReadsThoseOfWantedRowsAlone) {
  options_.choices.policy = "stream";
  for (uint64_t prompts : {1, 3}) {
    SCOPED_TRACE(prompts);
    const Routed all = run(folder_.path_of("m"), options_, prompts);
    const Routed few = run(folder_.path_of("m"), options_, prompts, false);
    EXPECT_EQ(few.tokens, all.tokens);
    EXPECT_LT(few.counts.misses, all.counts.misses);
    for (const Routed& r : {all, few}) {
      EXPECT_EQ(r.counted, r.predicted);
      EXPECT_EQ(r.counted, r.fixed + r.counts.misses * r.expert);
      EXPECT_LE(r.range.least, r.decided);
      EXPECT_GE(r.range.most, r.decided);
    }
  }
}

// Under any memory: the same tokens, each pick a hit or a miss, and bytes are the misses'. A second
// run begins with what the first one picked, and counts as exactly.
TEST_F(Experts, BytesAreTheMisses) {
  std::vector<std::vector<int32_t>> tokens;
  std::set<uint64_t> misses;
  const std::vector<engine::Request> like(2, {std::vector<int32_t>(20, 1), {.max_tokens = 24}, {}});
  for (const char* policy : {"auto", "lru", "pin", "pin"}) {
    options_.choices.policy = policy;
    options_.memory.reset();
    const Bytes smallest = test::smallest_budget(folder_.path_of("m"), options_, like);
    for (Bytes memory : {Bytes{0}, 4 * kMiB, 8 * kMiB}) {
      SCOPED_TRACE(std::string(policy) + " with room for " + std::to_string(memory));
      options_.memory = smallest + memory;
      const Routed r = run(folder_.path_of("m"), options_, 2);
      EXPECT_EQ(r.counts.hits + r.counts.misses, r.distinct);
      EXPECT_EQ(r.counted, r.predicted);
      if (r.counts.misses != 0) {
        EXPECT_EQ(r.counted, r.fixed + r.counts.misses * r.expert);
        EXPECT_GE(r.counts.misses, r.ever);
      }
      if (tokens.empty()) tokens = r.tokens;
      EXPECT_EQ(r.tokens, tokens);
      misses.insert(r.counts.misses);
    }
  }
  EXPECT_GT(misses.size(), 1u) << "every budget read the same";
}

}  // namespace
}  // namespace headrace
