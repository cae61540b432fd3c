// What streaming plans cost and what bounds them: plans of expand() and search() on the simulator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "scheduler/bound.h"
#include "scheduler/explain.h"
#include "scheduler/liveness.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/search.h"
#include "scheduler/simulate.h"
#include "scheduler/verify.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace headrace::scheduler {
namespace {

using ::testing::HasSubstr;

constexpr Bytes kAmple = 1ull << 50;

// A model of `layers` with attention, an embedding, a head (perhaps tied) and perhaps experts.
Workload random_model(Random& random) {
  std::vector<Layer> layers(random.between(1, 8));
  for (Layer& layer : layers) {
    layer.chunks.resize(random.between(1, 6));
    for (Bytes& chunk : layer.chunks) chunk = random.between(1, 1024) * kBlock;
    layer.flops_per_row = static_cast<double>(random.below(1 << 26));
  }
  Workload workload = layered(layers);
  const auto object = [&](std::string name, bool stays) {
    ObjectSpec spec{.id = static_cast<ObjectId>(workload.objects.size()), .name = std::move(name)};
    spec.chunks.resize(random.between(1, 4));
    for (Bytes& chunk : spec.chunks) chunk = random.between(1, 512) * kBlock;
    spec.always_resident = stays;
    workload.objects.push_back(spec);
    return spec.id;
  };
  const auto segment = [&](SegmentKind kind, uint32_t layer) -> SegmentSpec& {
    SegmentSpec spec;
    spec.kind = kind;
    spec.layer = layer;
    spec.name = "segment " + std::to_string(workload.segments.size());
    workload.segments.push_back(spec);
    return workload.segments.back();
  };
  if (random.chance(0.3)) {
    const auto count = static_cast<uint32_t>(random.between(2, 8));
    const ObjectId router = object("router", true);
    segment(SegmentKind::kRoute, 0).weights = {router};
    std::vector<ObjectId> experts;
    for (uint32_t e = 0; e < count; ++e) experts.push_back(object("expert", false));
    SegmentSpec& spec = segment(SegmentKind::kExperts, 0);
    spec.candidates = experts;
    spec.choices_per_row = static_cast<uint32_t>(random.between(1, count));
  }
  if (random.chance(0.7)) {
    const ObjectId embedding = object("embedding", false);
    SegmentSpec spec;
    spec.kind = SegmentKind::kEmbed;
    spec.name = "embedding";
    spec.candidates = {embedding};
    spec.choices_per_row = 1;
    workload.segments.insert(workload.segments.begin(), spec);
    const bool tied = random.chance(0.5);
    const ObjectId head = tied ? embedding : object("head", false);
    segment(SegmentKind::kDense, kNone).weights = {head};
  }
  for (uint32_t s = 0; s < workload.segments.size(); ++s) workload.segments[s].id = s;
  workload.needs = {.base = random.between(0, 4) * kMiB,
                    .kv_block = random.between(0, 64) * kBlock,
                    .kv_blocks = static_cast<uint32_t>(random.below(8)),
                    .activation_fixed = random.below(kMiB),
                    .activation_per_row = random.below(64 * kKiB),
                    .activation_per_output = random.below(64 * kKiB),
                    .workspace = random.below(kMiB),
                    .io = random.below(kMiB)};
  workload.rows_wanted = static_cast<uint32_t>(random.between(1, 64));
  workload.sequences = static_cast<uint32_t>(random.between(1, 4));
  workload.prompt_tokens = static_cast<uint32_t>(random.between(1, 64));
  workload.generated_tokens = 8;
  workload.context = 64;
  return workload;
}

Bytes required_of(const Workload& workload, const Machine& machine, Budgets budgets) {
  budgets.memory = 1;
  try {
    search(workload, machine, budgets, {});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible);
    return error.required_bytes();
  }
  return 1;
}

// The one rule of order, read off the result: every task starts at the later of its lane's last end
// and its edges' ends. Waiting for a demand read is the one exception.
void expect_work_conserving(const Plan& plan, const Timeline& timeline) {
  std::array<double, kLanes> free{};
  const auto by_round = [&](int32_t round) {
    std::vector<Interval> list;
    for (const Interval& interval : timeline.intervals) {
      if (interval.round == round) list.push_back(interval);
    }
    return list;
  };
  std::vector<double> before, now, loaded(plan.residents.size());
  std::map<std::tuple<TaskKind, ObjectId, uint32_t>, double> entered;
  for (int32_t r = -1;; ++r) {
    const Round& round = r < 0 ? plan.enter : plan.steady;
    const std::vector<Interval> list = by_round(r);
    if (r >= 0 && list.empty()) break;
    ASSERT_EQ(list.size(), round.tasks.size());
    now.assign(round.tasks.size(), 0);
    for (const Interval& interval : list) now[interval.task] = interval.end_s;
    for (const Interval& interval : list) {
      const Task& task = round.tasks[interval.task];
      double start = free[static_cast<size_t>(task.lane)];
      for (uint32_t a = task.after.begin; a < task.after.end; ++a) {
        const TaskRef& ref = round.after[a];
        if (ref.round == 0) {
          start = std::max(start, now[ref.task]);
        } else if (r > 0) {
          start = std::max(start, before[ref.task]);
        } else if (r == 0) {
          const Task& of = round.tasks[ref.task];
          const auto found = entered.find({of.kind, of.object, of.chunk});
          if (found != entered.end()) start = std::max(start, found->second);
        }
      }
      const auto wait_for_load = [&](const Slot& slot) {
        if (r == 0 && slot.space == Space::kResident) start = std::max(start, loaded[slot.index]);
      };
      for (uint32_t u = task.uses.begin; u < task.uses.end; ++u) wait_for_load(round.uses[u].slot);
      wait_for_load(task.from);
      EXPECT_EQ(interval.begin_s, start) << "round " << r << " task " << interval.task;
      free[static_cast<size_t>(task.lane)] = interval.end_s;
      if (r < 0) entered[{task.kind, task.object, task.chunk}] = interval.end_s;
      if (r < 0 && task.to.space == Space::kResident) loaded[task.to.index] = interval.end_s;
    }
    before = now;
  }
}

TEST(Streaming, ExpandedPlansFollowTheOneRuleOfOrder) {
  for (uint64_t c = 0; c < test::cases(60); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    std::vector<Layer> layers(random.between(1, 8));
    for (Layer& layer : layers) {
      layer.chunks.resize(random.between(1, 5));
      for (Bytes& chunk : layer.chunks) chunk = random.between(1, 4096) * kBlock;
      layer.flops_per_row = static_cast<double>(random.below(1 << 28));
    }
    const Workload workload = layered(layers);
    const bool has_device = random.chance(0.5);
    Decision decision = empty_decision(workload, "stream", static_cast<uint32_t>(random.below(6)));
    for (auto& object : decision.home) {
      for (Home& home : object) {
        if (random.chance(0.3)) home = Home::kHost;
        if (has_device && random.chance(0.3)) home = Home::kDevice;
      }
    }
    const Plan plan = expand(workload, decision, {kAmple, kAmple, has_device});
    const std::vector<PassRows> passes(random.between(1, 4), PassRows{8, 16, 1});
    const Timeline timeline = simulate(plan, workload, round_machine(), passes, true);
    ASSERT_FALSE(timeline.deadlock) << timeline.deadlock_tasks;
    expect_work_conserving(plan, timeline);
    Bytes moved = 0, expected = 0;
    for (const ByteRow& row : timeline.bytes) moved += row.bytes;
    for (const ByteRow& row : bytes_of(plan.enter)) expected += row.bytes;
    for (const ByteRow& row : bytes_of(plan.steady)) expected += row.bytes * passes.size();
    EXPECT_EQ(moved, expected);
  }
}

// Steady state: max of reading and computing a layer, one layer ahead.
TEST(Streaming, SteadyPassIsTheLargerOfReadAndCompute) {
  const Workload workload = layered(std::vector<Layer>(16, Layer{{64 * kMiB}, 1 << 28}));
  Machine machine = round_machine();
  machine.rates[0].latency_s = 0;
  const Plan plan = expand(workload, empty_decision(workload, "stream", 1), {0, kAmple, false});
  for (const uint32_t rows : {1u, 8u, 16u, 32u, 64u, 256u}) {
    const double io = 64.0 * kMiB / machine.rates[0].bytes_per_s;
    const double compute =
        product_s(64.0 * kMiB / machine.memory_read_bytes_per_s,
                  (1 << 28) * static_cast<double>(rows) / machine.matmul_flops_f32);
    const Timeline timeline =
        simulate(plan, workload, machine, std::vector<PassRows>(4, PassRows{rows, 1, 1}));
    const double pass = 16 * std::max(io, compute);
    EXPECT_NEAR(timeline.steady_s, pass, 1e-12 * pass) << rows;
  }
}

// Tokens of a pass from which on streaming is hidden: bytes per parameter x rate / (2 x bandwidth).
TEST(Streaming, BreakEvenTokensPerPass) {
  struct Case {
    double bytes_per_parameter, flops, bandwidth, published;
  };
  // bf16 at 790 TFLOP/s over a link and over a disk; 4 bits a weight; a small machine.
  for (const Case& c :
       {Case{2, 790e12, 55e9, 14.4e3}, Case{2, 790e12, 6e9, 132e3}, Case{0.5, 790e12, 55e9, 3.6e3},
        Case{0.5, 790e12, 6e9, 33e3}, Case{2, 0.3e12, 1.3e9, 230}}) {
    const double parameters = 32.0 * kMiB / c.bytes_per_parameter;
    const Workload workload = layered(std::vector<Layer>(8, Layer{{32 * kMiB}, 2 * parameters}));
    Machine machine;
    machine.matmul_flops_f32 = c.flops;
    machine.memory_read_bytes_per_s = 1e15;  // not what this is about
    machine.rates = {{{Tier::kDisk, Tier::kHost}, c.bandwidth, 0}};
    const Plan plan = expand(workload, empty_decision(workload, "stream", 1), {0, kAmple, false});
    const auto waits = [&](uint32_t rows) {
      const std::vector<PassRows> passes(3, PassRows{rows, 1, 1});
      const Timeline timeline = simulate(plan, workload, machine, passes);
      const double compute = 8 * 2 * parameters * rows / c.flops;
      return timeline.steady_s > compute * (1 + 1e-9);
    };
    uint32_t low = 1, high = 1u << 20;  // waits at low, not at high
    ASSERT_TRUE(waits(low));
    ASSERT_FALSE(waits(high));
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (waits(middle) ? low : high) = middle;
    }
    const double law = c.bytes_per_parameter * c.flops / (2 * c.bandwidth);
    EXPECT_NEAR(high, law, 1.001);
    EXPECT_NEAR(high, c.published, 0.015 * c.published);
  }
}

// Pinning a fraction f of the weights W leaves M - fW for the sequences' KV. With a free batch the
// rate is that many sequences per pass; where W > M it falls with f, where W < M it grows.
TEST(Streaming, FreeBatchStreamsEverythingAndFixedBatchPinsWhatFits) {
  constexpr uint32_t kLayerCount = 16;
  const Workload workload = layered(std::vector<Layer>(kLayerCount, Layer{{16 * kMiB}, 1}));
  const double weights = 16.0 * 16 * kMiB, per_sequence = 1.0 * kMiB;
  Machine machine = round_machine();
  for (const double memory_share : {0.25, 0.5, 0.75, 1.5}) {
    SCOPED_TRACE(memory_share);
    double best_rate = 0, last_pass = 1e9;
    uint32_t best = kNone;
    for (uint32_t pinned = 0; pinned < kLayerCount; ++pinned) {
      const double left = memory_share * weights - pinned * 16.0 * kMiB;
      if (left < per_sequence) break;
      Decision decision = empty_decision(workload, "pin", 1);
      // Evenly spread over the pass.
      for (uint32_t i = 0; i < pinned; ++i) {
        decision.home[i * kLayerCount / pinned][0] = Home::kHost;
      }
      const Plan plan = expand(workload, decision, {0, kAmple, false});
      const auto rows = static_cast<uint32_t>(left / per_sequence);
      const double pass =
          simulate(plan, workload, machine, std::vector<PassRows>(4, PassRows{rows, 1, 1}))
              .steady_s;
      if (rows / pass > best_rate) best_rate = rows / pass, best = pinned;
      const double fixed =
          simulate(plan, workload, machine, std::vector<PassRows>(4, PassRows{4, 1, 1})).steady_s;
      EXPECT_LE(fixed, last_pass);
      last_pass = fixed;
    }
    if (memory_share < 1) {
      EXPECT_EQ(best, 0u);
    } else {
      EXPECT_EQ(best, kLayerCount - 1);
    }
  }
}

// ------------------------------------------------------------------------------------------ bounds

TEST(Bound, CountsEveryObjectOnceAndTheCheapestExperts) {
  Workload workload = layered({Layer{{8 * kMiB}, 1}, Layer{{4 * kMiB}, 1}});
  workload.segments[1].weights = {0, 1};  // object 0 in two segments
  EXPECT_EQ(bound_bytes(workload, {}), 12 * kMiB);
  for (const Bytes size : {5 * kMiB, 3 * kMiB, 2 * kMiB}) {
    workload.objects.push_back(
        {.id = static_cast<ObjectId>(workload.objects.size()), .name = "e", .chunks = {size}});
  }
  SegmentSpec experts;
  experts.id = 2;
  experts.kind = SegmentKind::kExperts;
  experts.candidates = {2, 3, 4};
  experts.choices_per_row = 2;
  workload.segments.push_back(experts);
  EXPECT_EQ(bound_bytes(workload, {}), 17 * kMiB);  // 2 + 3 of the experts
  // One that a dense segment walks as well may cost this segment nothing, and is counted there.
  workload.segments[2].candidates = {2, 3, 0};
  EXPECT_EQ(bound_bytes(workload, {}), 15 * kMiB);
  SegmentSpec embed;
  embed.id = 3;
  embed.kind = SegmentKind::kEmbed;
  embed.candidates = {4};
  workload.segments.push_back(embed);
  EXPECT_EQ(bound_bytes(workload, {}), 15 * kMiB);
}

TEST(Bound, SubtractsAllThatCouldHoldWeights) {
  Workload workload = layered({Layer{{64 * kMiB}, 1}});
  workload.needs = {.base = 1 * kMiB,
                    .kv_block = 2 * kMiB,
                    .kv_blocks = 3,
                    .activation_fixed = 100,
                    .activation_per_row = 20,
                    .activation_per_output = 3,
                    .workspace = 4000,
                    .io = 50000};
  const Bytes other = 7 * kMiB + 54123;
  EXPECT_EQ(bound_bytes(workload, {.memory = 0}), 64 * kMiB);
  EXPECT_EQ(bound_bytes(workload, {.memory = other}), 64 * kMiB);
  EXPECT_EQ(bound_bytes(workload, {.memory = other + 10}), 64 * kMiB - 10);
  EXPECT_EQ(bound_bytes(workload, {.memory = other + 64 * kMiB - 1}), 1u);
  EXPECT_EQ(bound_bytes(workload, {.memory = kAmple}), 0u);
  Budgets budgets{.memory = other, .device_memory = 9 * kMiB};
  EXPECT_EQ(bound_bytes(workload, budgets), 64 * kMiB);
  budgets.device_within_memory = false;
  EXPECT_EQ(bound_bytes(workload, budgets), 55 * kMiB);
  budgets = {.memory = other, .kv_memory = 4 * kMiB};  // 2 MiB of KV may be left out
  EXPECT_EQ(bound_bytes(workload, budgets), 62 * kMiB);
}

TEST(Bound, SecondsAreThoseOfTheSlowestPart) {
  const Workload workload = layered({Layer{{1ull << 30}, 1ull << 30}});
  const Machine machine = round_machine();
  EXPECT_EQ(bound_seconds(workload, machine, 0, 1), 1.0 / 16);        // from memory
  EXPECT_EQ(bound_seconds(workload, machine, 1ull << 29, 1), 0.5);    // from disk
  EXPECT_EQ(bound_seconds(workload, machine, 1ull << 29, 128), 1.0);  // products
}

// No plan beats it; dense plans come within what their rings, rounding and extra rows take.
TEST(Bound, HoldsForEveryPlanOfTheSearch) {
  for (uint64_t c = 0; c < test::cases(40); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const Workload workload = random_model(random);
    const Machine machine = round_machine();
    Bytes all = 0;
    for (const ObjectSpec& object : workload.objects) all += object.bytes();
    Budgets budgets;
    const bool has_device = random.chance(0.4);
    if (has_device) {
      budgets.device_memory = random.between(16 * kMiB, 16 * kMiB + all);
      budgets.device_within_memory = random.chance(0.5);
    }
    budgets.memory = required_of(workload, machine, budgets);
    if (budgets.memory == 0) continue;  // the device is too small for any plan
    budgets.memory += random.below(all + 8 * kMiB);
    for (const char* policy : {"auto", "stream", "pin", "lru", "sync"}) {
      Choices choices;
      choices.policy = policy;
      Plan plan;
      try {
        plan = search(workload, machine, budgets, choices);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
        continue;
      }
      const Bytes bound = bound_bytes(workload, budgets);
      Bytes from_host = 0;
      for (const ByteRow& row : bytes_of(plan.steady)) {
        if (row.edge.from == Tier::kHost) from_host += row.bytes;
      }
      EXPECT_LE(bound, plan.bytes - from_host) << policy;
      EXPECT_LE(plan.bound_bytes, plan.bytes);
      const bool dense = plan.pools.empty() && !has_device;
      if (std::string_view(policy) == "pin" && dense) {
        const Bytes extra = plan.memory.activations - workload.needs.activation_fixed;
        EXPECT_LE(plan.bytes, bound + plan.memory.stream_ring + plan.memory.slack + extra);
      }
      if (std::string_view(policy) == "auto") {
        const std::string why = explain(plan, workload, machine, budgets);
        EXPECT_THAT(why, HasSubstr("\nbinds "));
        EXPECT_THAT(why, HasSubstr("\n1 GiB more "));
      }
      const PassRows pass{plan.sequences, workload.context, 1};
      const double took = simulate(plan, workload, machine, {pass, pass, pass}).steady_s;
      EXPECT_GE(took * (1 + 1e-9),
                bound_seconds(workload, machine, plan.bound_bytes, plan.sequences));
    }
  }
}

// Against the best that any schedule does: chunks as objects, furthest next use, many passes.
TEST(Bound, EqualsOptimalReplayOfDenseScansUpToOneChunk) {
  for (uint64_t c = 0; c < test::cases(40); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const Bytes chunk = random.between(1, 64) * kBlock;
    std::vector<Layer> layers(random.between(2, 8));
    for (Layer& layer : layers) layer.chunks.assign(random.between(1, 4), chunk);
    const Workload workload = layered(layers);
    const auto count = static_cast<uint32_t>(chunks_of(workload).size());
    const Budgets budgets{.memory = random.between(1, count) * chunk};
    const std::vector<CacheObject> objects(count,
                                           CacheObject{static_cast<double>(chunk), 0, true, false});
    std::vector<Access> string;
    const uint32_t passes = 4 * count;
    for (uint32_t p = 0; p < passes; ++p) {
      for (uint32_t o = 0; o < count; ++o) {
        string.push_back({.reads = {o}, .writes = {}, .dead = {}});
      }
      string.emplace_back().end_of_step = true;
    }
    const auto steps =
        replay(string, objects, static_cast<double>(budgets.memory), Victim::kFurthestNextUse);
    double sum = 0;
    for (uint32_t p = count; p < 3 * count; ++p) sum += steps[p].total() / (2.0 * count);
    const auto bound = static_cast<double>(bound_bytes(workload, budgets));
    EXPECT_GE(sum, bound - 1e-6);
    EXPECT_LE(sum, bound + static_cast<double>(chunk) + 1e-6);
  }
}

// ---------------------------------------------------------------------------------------- explain

// The largest context that fits is exact: with it the parts sum to the budget, and one block more
// is refused with the budget that it would take.
TEST(Explain, LargestContextIsExact) {
  for (uint64_t c = 0; c < test::cases(10); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    Workload workload = random_model(random);
    workload.needs.kv_block = random.between(1, 256) * kBlock;
    workload.needs.kv_blocks = 0;
    const Machine machine = round_machine();
    const Budgets budgets{.memory = required_of(workload, machine, {}) + random.below(64 * kMiB)};
    const auto fits = [&](uint32_t blocks) {
      workload.needs.kv_blocks = blocks;
      return required_of(workload, machine, {}) <= budgets.memory;
    };
    uint32_t low = 0, high = 1u << 16;
    ASSERT_TRUE(fits(low));
    ASSERT_FALSE(fits(high));
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (fits(middle) ? low : high) = middle;
    }
    workload.needs.kv_blocks = low;
    const Plan plan = search(workload, machine, budgets, {});
    EXPECT_EQ(plan.memory.kv, low * workload.needs.kv_block);
    EXPECT_EQ(plan.memory.total(), budgets.memory);
    workload.needs.kv_blocks = high;
    try {
      search(workload, machine, budgets, {});
      ADD_FAILURE() << "one block more fitted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInfeasible);
      EXPECT_GT(error.required_bytes(), budgets.memory);
      EXPECT_LE(error.required_bytes(), budgets.memory + workload.needs.kv_block);
      EXPECT_NO_THROW(search(workload, machine, {.memory = error.required_bytes()}, {}));
      EXPECT_THROW(search(workload, machine, {.memory = error.required_bytes() - 1}, {}), Error);
    }
  }
}

std::string explained(const Workload& workload, const Machine& machine, const Budgets& budgets) {
  return explain(search(workload, machine, budgets, {}), workload, machine, budgets);
}

TEST(Explain, NamesWhatBindsTheBoundAndTheNextBest) {
  Workload workload =
      layered(std::vector<Layer>(8, Layer{std::vector<Bytes>(4, 8 * kMiB), 1 << 27}));
  workload.needs.activation_per_row = 64 * kKiB;
  Machine machine = round_machine();
  const Budgets half{.memory = 128 * kMiB};
  const std::string by_disk = explained(workload, machine, half);
  EXPECT_THAT(by_disk, HasSubstr("disk read: "));
  EXPECT_THAT(by_disk, HasSubstr("no schedule within this budget moves less than "));
  EXPECT_THAT(by_disk, HasSubstr("compute waits "));
  EXPECT_THAT(by_disk, HasSubstr("for disk_read"));
  EXPECT_THAT(by_disk, HasSubstr("rows a pass on, the products hide it"));
  EXPECT_THAT(by_disk, HasSubstr("1 GiB more           buys 0 B a pass instead of "));
  size_t lost = 0;
  for (const Policy& policy : policies()) {
    lost += by_disk.find(std::string("lost: ") + policy.name) != std::string::npos;
  }
  EXPECT_EQ(lost, policies().size() - 1);
  EXPECT_THAT(by_disk, HasSubstr("of dense chunks, spread over the pass"));

  const std::string in_memory = explained(workload, machine, {.memory = kGiB});
  EXPECT_THAT(in_memory, HasSubstr("memory read: "));
  EXPECT_THAT(in_memory, HasSubstr("moves nothing, and no schedule moves less"));
  EXPECT_THAT(in_memory, HasSubstr("streams              nothing: every weight stays"));

  machine.matmul_flops_f32 = 1ull << 30;
  EXPECT_THAT(explained(workload, machine, half), HasSubstr("binds                compute: "));

  machine = round_machine();
  machine.rates[2].bytes_per_s = 1ull << 27;
  const Budgets device{.memory = kGiB, .device_memory = 128 * kMiB};
  const std::string by_link = explained(workload, machine, device);
  EXPECT_THAT(by_link, HasSubstr("copy to the device: "));
  EXPECT_THAT(by_link, HasSubstr("stays on the device"));
  EXPECT_THAT(by_link, HasSubstr("1 GiB more of device buys 0 B a pass"));
}

}  // namespace
}  // namespace headrace::scheduler
