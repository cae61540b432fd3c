// Keys and values that stream: plans are valid, complete and timed; whatever is wrong with their
// tasks is found; what a pass moves is what a plain reading of its positions says.
#include "scheduler/kv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/error.h"
#include "scheduler/search.h"
#include "scheduler/shapes.h"
#include "scheduler/simulate.h"
#include "scheduler/verify.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

Workload kv_workload(Random& random) {
  Workload w = testing::random_workload(random);
  uint32_t layers = 0;
  for (SegmentSpec& segment : w.segments) {
    if (!segment.name.ends_with(".attention") || segment.weights.empty()) continue;
    segment.layer = layers++;
    segment.cost.kv_bytes_per_row = 512;
  }
  w.needs.kv_layer_block = random.between(1, 8) * kBlock;
  w.needs.kv_block = layers * w.needs.kv_layer_block;
  const bool slides = random.chance(0.5);
  const auto window = static_cast<uint32_t>(random.between(1, 100));
  for (uint32_t layer = 0; slides && layer < layers; ++layer) {
    w.needs.kv_windows.push_back(random.chance(0.5) ? 0 : window);
  }
  for (uint32_t n : {8u, 4u, 2u, 1u}) w.at_a_time.push_back({n, n * 6});
  w.requests = 8;
  w.rows_prompt = static_cast<uint32_t>(random.between(1, 64));
  w.context = static_cast<uint32_t>(random.between(1, 190));
  return w;
}

Machine machine() {
  Machine m;
  m.name = "made up";
  m.matmul_flops_f32 = 1e10;
  m.memory_read_bytes_per_s = 1e10;
  m.rates = {{{Tier::kDisk, Tier::kHost}, 1e9, 1e-5}, {{Tier::kHost, Tier::kDisk}, 5e8, 1e-5}};
  return m;
}

struct Made {
  Workload workload;
  Plan plan;
};

// A plan that streams keys and values of some layers.
Made made(Random& random) {
  for (;;) {
    Made out{kv_workload(random), {}};
    const auto layers = static_cast<Bytes>(kv_segments(out.workload).size());
    if (layers < 2) continue;
    const Bytes place = out.workload.needs.kv_layer_block * 6;
    Budgets b{.memory = kGiB, .kv_memory = place * random.between(1, 8 * layers - 1)};
    if (random.chance(0.3)) b.device_memory = 64 * kMiB;
    out.plan = search(out.workload, machine(), b, {});
    EXPECT_LE(out.plan.memory.kv, *b.kv_memory);
    for (const AtATime& at : out.workload.at_a_time) {
      if (at.kv_blocks != out.plan.kv_blocks) continue;
      use(out.workload,
          {at, static_cast<uint32_t>(out.plan.kv.streamed.size()), out.plan.kv.slots});
    }
    if (out.plan.kv.slots > 0) return out;
  }
}

TEST(Kv, PlansAreValidParseBackAndRun) {
  Random random(test::seed(), 1);
  for (uint64_t index = 0; index < test::cases(60); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const Made m = made(random);
    EXPECT_EQ(violations(m.plan, m.workload), std::vector<std::string>{});
    const std::string text = print_plan(m.plan);
    const Plan again = parse_plan(text, "here");
    EXPECT_EQ(print_plan(again), text);
    EXPECT_EQ(again.kv, m.plan.kv);
    const PassRows pass{.rows = m.plan.sequences, .context = m.workload.context};
    const Timeline t = simulate(m.plan, m.workload, machine(), {pass, pass, pass});
    EXPECT_FALSE(t.deadlock) << t.deadlock_tasks;
    const KvBytes kv = kv_expected(m.plan, m.workload, pass);
    Bytes moved = 0;
    for (const ByteRow& row : t.bytes) moved += row.kind == Kind::kKv ? row.bytes : 0;
    EXPECT_EQ(moved, 3 * kv.total());
    EXPECT_LE(kv_least(m.plan, pass.rows).total(), kv.total());
    EXPECT_LE(kv.total(), kv_most(m.plan, m.workload, pass.rows).total());
    EXPECT_LE(m.plan.bound_bytes, m.plan.bytes);
  }
}

bool is_kv(const Task& t) { return t.kind == TaskKind::kKvRead || t.kind == TaskKind::kKvWrite; }

TEST(Kv, EveryEdgeThatItsTasksNeedIsMissed) {
  Random random(test::seed(), 2);
  uint64_t dropped = 0;
  for (uint64_t index = 0; index < test::cases(20); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const Made m = made(random);
    const std::vector<Task>& tasks = m.plan.steady.tasks;
    for (uint32_t t = 0; t < tasks.size(); ++t) {
      for (uint32_t a = tasks[t].after.begin; a < tasks[t].after.end; ++a) {
        const TaskRef ref = m.plan.steady.after[a];
        if (!is_kv(tasks[t]) && !is_kv(tasks[ref.task])) continue;
        Plan broken = m.plan;
        std::vector<TaskRef>& after = broken.steady.after;
        Task& task = broken.steady.tasks[t];
        std::swap(after[a], after[task.after.end - 1]);
        --task.after.end;
        // The same edge may be there twice: where every slot has a layer of its own.
        const auto begin = after.begin() + task.after.begin, end = after.begin() + task.after.end;
        if (std::find(begin, end, ref) != end) continue;
        EXPECT_FALSE(violations(broken, m.workload).empty()) << "task " << t << " edge " << a;
        ++dropped;
      }
    }
  }
  EXPECT_GT(dropped, 100u);
}

TEST(Kv, ChangedTasksAndFiguresAreFound) {
  using Change = std::function<void(Plan&, Task&)>;
  const std::pair<const char*, Change> changes[] = {
      {"another slot", [](Plan&, Task& t) { ++(t.lane == Lane::kDiskRead ? t.to : t.from).index; }},
      {"another segment", [](Plan&, Task& t) { ++t.segment; }},
      {"another lane", [](Plan&, Task& t) { t.lane = Lane::kHostToDevice; }},
      {"another edge",
       [](Plan&, Task& t) {
         t.edge = {Tier::kHost, Tier::kDevice};
       }},
      {"bytes", [](Plan&, Task& t) { t.bytes = kBlock; }},
      {"an object", [](Plan&, Task& t) { t.object = 0; }},
      {"not counted", [](Plan&, Task& t) { t.counted = false; }},
      {"a slot more", [](Plan& p, Task&) { p.kv.slots += 1000; }},
      {"no slot", [](Plan& p, Task&) { p.kv.slots = 0; }},
      {"a layer twice", [](Plan& p, Task&) { p.kv.streamed.push_back(p.kv.streamed.back()); }},
      {"a layer less", [](Plan& p, Task&) { p.kv.streamed.pop_back(); }},
      {"a layer that is not there", [](Plan& p, Task&) { p.kv.streamed.back() = 1 << 20; }},
      {"pieces of other sizes", [](Plan& p, Task&) { p.kv.block_bytes += 1; }},
      {"more blocks than memory", [](Plan& p, Task&) { p.kv_blocks = 1u << 31; }},
  };
  Random random(test::seed(), 3);
  for (uint64_t index = 0; index < test::cases(20); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const Made m = made(random);
    for (const auto& [name, change] : changes) {
      Plan broken = m.plan;
      std::vector<Task*> kv;
      for (Task& t : broken.steady.tasks) {
        if (is_kv(t)) kv.push_back(&t);
      }
      change(broken, *kv[random.below(kv.size())]);
      EXPECT_FALSE(violations(broken, m.workload).empty()) << name;
    }
  }
}

TEST(Kv, MovesAreWhatPositionsSay) {
  Random random(test::seed(), 4);
  for (uint64_t index = 0; index < test::cases(50); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const uint32_t blocks = static_cast<uint32_t>(random.between(1, 60));
    const uint32_t tokens = 32;
    const auto window = static_cast<uint32_t>(random.chance(0.5) ? 0 : random.between(1, 100));
    KvMoves moves(blocks, window);
    for (int round = 0; round < 3; ++round) {
      std::set<uint32_t> read, written;
      moves.clear();
      for (uint64_t s = 0; s < 4; ++s) {
        const uint64_t first = random.below(blocks * tokens);
        const uint64_t end = random.between(first + 1, blocks * tokens);
        const uint32_t shift = static_cast<uint32_t>(random.below(blocks));
        const auto block_of = [&](uint64_t i) {
          return static_cast<uint32_t>((i + shift) % blocks);
        };
        moves.add_rows(first, end, tokens, block_of);
        for (uint64_t t = 0; t < first; ++t) {
          const bool seen = window == 0 || t + window > first;
          const bool appended_to = t / tokens == first / tokens;
          if (seen || appended_to) read.insert(block_of(t / tokens));
        }
        for (uint64_t t = first; t < end; ++t) written.insert(block_of(t / tokens));
      }
      moves.close();
      const auto listed = [](const std::vector<Range>& runs) {
        std::set<uint32_t> out;
        for (const Range& run : runs) {
          for (uint32_t b = run.begin; b < run.end; ++b) EXPECT_TRUE(out.insert(b).second);
        }
        return out;
      };
      EXPECT_EQ(listed(moves.reads()), read);
      EXPECT_EQ(listed(moves.writes()), written);
      EXPECT_EQ(moves.read_blocks(), read.size());
      EXPECT_EQ(moves.written_blocks(), written.size());
    }
  }
}

// What is expected is what the moves of as many sequences that share nothing come to.
TEST(Kv, ExpectedBytesAreThoseOfTheMoves) {
  Random random(test::seed(), 6);
  for (uint64_t index = 0; index < test::cases(30); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    Made m = made(random);
    const uint32_t tokens = m.workload.needs.kv_block_tokens;
    const auto context = static_cast<uint32_t>(random.between(1, 6 * tokens));
    const PassRows pass{.rows = m.plan.sequences, .context = context};
    const uint32_t each = (context + tokens - 1) / tokens;
    if (pass.rows * each > m.plan.kv_blocks) continue;
    KvBytes moved;
    size_t members = 0;
    for (const KvGroup& group : kv_groups(m.plan, m.workload)) {
      KvMoves moves(m.plan.kv_blocks, group.window);
      moves.clear();
      for (uint32_t s = 0; s < pass.rows; ++s) {
        moves.add_rows(context - 1, context, tokens,
                       [&](uint64_t i) { return static_cast<uint32_t>(s * each + i); });
      }
      moves.close();
      const Bytes block = group.members.size() * m.plan.kv.block_bytes;
      moved.read += moves.read_blocks() * block;
      moved.written += moves.written_blocks() * block;
      members += group.members.size();
    }
    EXPECT_EQ(members, m.plan.kv.streamed.size());
    const KvBytes expected = kv_expected(m.plan, m.workload, pass);
    EXPECT_EQ(moved.read, expected.read);
    EXPECT_EQ(moved.written, expected.written);
    EXPECT_LE(moved.read, kv_most(m.plan, m.workload, pass.rows).read);
  }
}

TEST(Kv, PlacesOfLayersNeverMeetInOnePass) {
  for (uint32_t layers : {2u, 3u, 7u, 32u}) {
    for (uint32_t streamed = 1; streamed <= layers; ++streamed) {
      const KvStream kv{.layers = layers,
                        .block_bytes = kBlock,
                        .slots = std::min(3u, streamed),
                        .streamed = spread_layers(layers, streamed)};
      ASSERT_EQ(kv.streamed.size(), streamed);
      EXPECT_EQ(kv.streamed.back(), layers - 1);  // the first pass begins with what stays
      for (int64_t round = 0; round < 5; ++round) {
        std::vector<int64_t> since(kv_places(kv), -1);
        for (uint32_t l = 0; l < layers; ++l) {
          const uint32_t place = kv_place(kv, l, round);
          ASSERT_LT(place, kv_places(kv));
          const bool streams = std::binary_search(kv.streamed.begin(), kv.streamed.end(), l);
          EXPECT_TRUE(streams || since[place] == -1);  // what stays has a place of its own
          since[place] = l;
        }
      }
    }
  }
}

// Requests that share each pass are worth more than keys and values that stay, where weights are
// what moves; where they would be what moves, fewer at a time are.
TEST(Kv, TheSearchWeighsSequencesAgainstTraffic) {
  Random random(test::seed(), 5);
  testing::ModelShape shape;
  shape.layers = 8;
  shape.layer_bytes = 16 * kMiB;
  Workload w = testing::make_workload(shape);
  uint32_t layers = 0;
  for (SegmentSpec& segment : w.segments) {
    if (!segment.name.ends_with(".attention")) continue;
    segment.layer = layers++;
    segment.cost.kv_bytes_per_row = 512;
  }
  const auto plan_with = [&](Bytes block, uint32_t blocks) {
    Workload one = w;
    one.needs.kv_layer_block = block;
    one.needs.kv_block = layers * block;
    for (uint32_t n : {64u, 32u, 16u, 8u, 4u, 2u, 1u}) one.at_a_time.push_back({n, n * blocks});
    one.requests = 64;
    one.rows_prompt = 64;
    one.generated_tokens = 64;
    one.context = blocks * 32;
    return search(one, machine(), {.memory = 128 * kMiB}, {});
  };
  const Plan light = plan_with(4 * kKiB, 2), heavy = plan_with(256 * kKiB, 16);
  EXPECT_EQ(light.sequences, 64u) << light.why;
  EXPECT_LT(heavy.sequences, 64u) << heavy.why;
}

}  // namespace
}  // namespace headrace::scheduler
