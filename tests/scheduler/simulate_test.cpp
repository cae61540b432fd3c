// The simulator against recurrences written out here, on plans written out by hand. Rates are
// powers of two, so equality is exact.
#include "scheduler/simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace headrace::scheduler {
namespace {

using ::testing::HasSubstr;

// io_i and c_i of layers of one chunk, as the machine's figures give them.
struct Times {
  std::vector<double> io, copy, compute;
};
Times times_of(const Workload& workload, const Machine& machine, uint32_t rows) {
  Times times;
  for (const ObjectSpec& object : workload.objects) {
    const auto bytes = static_cast<double>(object.chunks.at(0));
    const double flops = workload.segments[object.id].cost.flops_per_row * rows;
    times.io.push_back(machine.rates[0].latency_s + bytes / machine.rates[0].bytes_per_s);
    times.copy.push_back(machine.rates[2].latency_s + bytes / machine.rates[2].bytes_per_s);
    times.compute.push_back(
        product_s(bytes / machine.memory_read_bytes_per_s, flops / machine.matmul_flops_f32));
  }
  return times;
}

std::vector<Layer> random_layers(Random& random, uint64_t least, uint64_t most) {
  std::vector<Layer> layers(random.between(least, most));
  for (Layer& layer : layers) {
    layer.chunks = {random.between(1, 64) * kMiB};
    layer.flops_per_row = static_cast<double>(random.below(1ull << 30));
  }
  return layers;
}

double compute_end(const Timeline& timeline, const Plan& plan, int32_t round) {
  double end = 0;
  for (const Interval& interval : timeline.intervals) {
    if (interval.round != round || round < 0) continue;
    if (plan.steady.tasks[interval.task].lane == Lane::kCompute) {
      end = std::max(end, interval.end_s);
    }
  }
  return end;
}

TEST(Simulate, WithoutPrefetchTimesAdd) {
  for (uint64_t c = 0; c < test::cases(50); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const Workload workload = layered(random_layers(random, 1, 12));
    const Machine machine = round_machine();
    const auto rows = static_cast<uint32_t>(random.between(1, 64));
    const Times times = times_of(workload, machine, rows);
    const Plan plan = stream_plan(workload, 0);
    const Timeline timeline = simulate(plan, workload, machine, {{rows, 1, 1}}, true);
    double sum = 0;
    for (size_t i = 0; i < times.io.size(); ++i) sum = sum + times.io[i] + times.compute[i];
    EXPECT_EQ(compute_end(timeline, plan, 0), sum);
    EXPECT_FALSE(timeline.deadlock);
  }
}

TEST(Simulate, OneAheadHidesTheLesserOfReadAndCompute) {
  for (uint64_t c = 0; c < test::cases(50); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const Workload workload = layered(random_layers(random, 2, 12));
    const Machine machine = round_machine();
    const auto rows = static_cast<uint32_t>(random.between(1, 64));
    const Times times = times_of(workload, machine, rows);
    const size_t n = times.io.size();
    const Plan plan = stream_plan(workload, 1);
    const Timeline timeline = simulate(plan, workload, machine, {{rows, 1, 1}}, true);
    double sum = times.io[0];
    for (size_t i = 0; i + 1 < n; ++i) sum += std::max(times.compute[i], times.io[i + 1]);
    EXPECT_EQ(compute_end(timeline, plan, 0), sum + times.compute[n - 1]);
  }
}

// Reference for any depth: fetch q follows fetch q-1 and waits for the slot of compute q-depth-1.
TEST(Simulate, DeeperPrefetchEqualsTheRecurrence) {
  for (uint64_t c = 0; c < test::cases(100); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const Workload workload = layered(random_layers(random, 1, 12));
    const Machine machine = round_machine();
    const auto n = static_cast<uint32_t>(workload.objects.size());
    const auto depth = static_cast<uint32_t>(random.below(n + 2));
    const uint32_t slots = std::min(depth + 1, n);
    std::vector<PassRows> passes(random.between(1, 4));
    for (PassRows& pass : passes) pass.rows = static_cast<uint32_t>(random.between(1, 64));
    const Plan plan = stream_plan(workload, depth);
    const Timeline timeline = simulate(plan, workload, machine, passes, true);

    std::vector<double> fetched, computed, ends;
    for (uint32_t q = 0; q < n * passes.size(); ++q) {
      const Times times = times_of(workload, machine, passes[q / n].rows);
      double start = q > 0 ? fetched[q - 1] : 0;
      if (q >= slots) start = std::max(start, computed[q - slots]);
      fetched.push_back(start + times.io[q % n]);
      const double ready = q > 0 ? std::max(fetched[q], computed[q - 1]) : fetched[q];
      computed.push_back(ready + times.compute[q % n]);
    }
    for (size_t p = 0; p < passes.size(); ++p) {
      ends.push_back(compute_end(timeline, plan, static_cast<int32_t>(p)));
      EXPECT_EQ(ends[p], computed[(p + 1) * n - 1]) << "pass " << p;
    }
    const double before = passes.size() > 1 ? ends[ends.size() - 2] : fetched[slots - 1];
    EXPECT_EQ(timeline.steady_s, ends.back() - before);

    // Compute's time is what it worked and what it waited, and it waited for the disk alone.
    double stalled = 0;
    for (const Stall& stall : timeline.stalls) {
      EXPECT_EQ(stall.cause, "disk_read");
      stalled += stall.seconds;
    }
    EXPECT_NEAR(stalled + timeline.busy_s[0], ends.back(), 1e-12);
  }
}

TEST(Simulate, TwoHopsEqualTheRecurrenceAndRunAtTheSlowerHop) {
  for (uint64_t c = 0; c < test::cases(100); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), c);
    const auto depth = static_cast<uint32_t>(random.below(4));
    const auto staging = static_cast<uint32_t>(random.between(1, 3));
    const Workload workload = layered(random_layers(random, depth + 1 + staging, 14));
    const Machine machine = round_machine();
    const auto n = static_cast<uint32_t>(workload.objects.size());
    const auto rows = static_cast<uint32_t>(random.between(1, 64));
    const Times times = times_of(workload, machine, rows);
    const Plan plan = two_hop_plan(workload, depth, staging);
    const Timeline timeline =
        simulate(plan, workload, machine, std::vector<PassRows>(3, PassRows{rows, 1, 1}), true);
    std::vector<double> read, copied, computed;
    const auto at = [](const std::vector<double>& ends, size_t q, size_t back) {
      return q >= back ? ends[q - back] : 0.0;
    };
    for (uint32_t q = 0; q < 3 * n; ++q) {
      read.push_back(std::max(at(read, q, 1), at(copied, q, staging)) + times.io[q % n]);
      const double ready = std::max(read[q], at(computed, q, depth + 1));
      copied.push_back(std::max(at(copied, q, 1), ready) + times.copy[q % n]);
      computed.push_back(std::max(at(computed, q, 1), copied[q]) + times.compute[q % n]);
    }
    for (int32_t p = 0; p < 3; ++p) {
      EXPECT_EQ(compute_end(timeline, plan, p), computed[static_cast<size_t>(p + 1) * n - 1]);
    }
    ASSERT_EQ(timeline.bytes.size(), 1u);  // staging is no edge
    EXPECT_EQ(timeline.bytes[0].edge, (Edge{Tier::kDisk, Tier::kDevice}));
  }
}

TEST(Simulate, SteadyRateIsTheSlowerHops) {
  for (const double disk : {1.0, 2.0, 4.0}) {
    for (const double link : {1.0, 2.0, 4.0}) {
      const Workload workload = layered(std::vector<Layer>(12, Layer{{64 * kMiB}, 1 << 20}));
      Machine machine = round_machine();
      machine.rates[0].bytes_per_s = disk * (1ull << 30);
      machine.rates[2].bytes_per_s = link * (1ull << 30);
      const Times times = times_of(workload, machine, 1);
      const Timeline timeline =
          simulate(two_hop_plan(workload, 1, 2), workload, machine, std::vector<PassRows>(6));
      EXPECT_DOUBLE_EQ(timeline.steady_s, 12 * std::max(times.io[0], times.copy[0]));
      double of_disk = 0, of_copy = 0;
      for (const Stall& stall : timeline.stalls) {
        (stall.cause == "copy" ? of_copy : of_disk) += stall.seconds;
      }
      // The hop that binds carries most of the wait; the other one only its own first transfer.
      if (disk < link) {
        EXPECT_GT(of_disk, 10 * of_copy);
      } else if (link < disk) {
        EXPECT_GT(of_copy, 10 * of_disk);
      }
    }
  }
}

TEST(Simulate, HalfDuplexDiskServesOneLaneAtATime) {
  Plan plan;
  for (uint32_t i = 0; i < 4; ++i) {
    Task read = fetch_task({0, i, 256 * kMiB}), write = read;
    write.lane = Lane::kDiskWrite;
    write.edge = {Tier::kHost, Tier::kDisk};
    add_task(plan.enter, read, {});
    add_task(plan.enter, write, {});
  }
  const Workload workload = layered({Layer{std::vector<Bytes>(4, 256 * kMiB), 0}});
  Machine machine = round_machine();
  const double read = 1.0 / 8192 + 0.25, write = 1.0 / 4096 + 0.5;
  EXPECT_EQ(simulate(plan, workload, machine, {}).makespan_s, 4 * read + 4 * write);
  machine.half_duplex_disk = false;
  const Timeline full = simulate(plan, workload, machine, {});
  EXPECT_EQ(full.makespan_s, 4 * write);
  EXPECT_EQ(full.busy_s[static_cast<size_t>(Lane::kDiskRead)], 4 * read);
  EXPECT_EQ(full.busy_s[static_cast<size_t>(Lane::kDiskWrite)], 4 * write);
}

TEST(Simulate, DeadlockNamesTheTasksThatWaitForEachOther) {
  const Workload workload = layered({Layer{{kMiB}, 1}, Layer{{kMiB}, 1}});
  Plan plan = stream_plan(workload, 0);
  ASSERT_FALSE(simulate(plan, workload, round_machine(), {{}, {}}).deadlock);
  // The fetch of layer 1 now waits for layer 1's own compute.
  plan.steady.after[plan.steady.tasks[0].after.begin] = {3, 0};
  const Timeline timeline = simulate(plan, workload, round_machine(), {{}, {}});
  EXPECT_TRUE(timeline.deadlock);
  EXPECT_THAT(timeline.deadlock_tasks, HasSubstr("pass 0 task 0 (fetch layers.1 chunk 0) waits "
                                                 "for pass 0 task 3 (forward layer 1)"));
  EXPECT_THAT(timeline.deadlock_tasks, HasSubstr("pass 0 task 3 (forward layer 1) waits for pass 0 "
                                                 "task 0 (fetch layers.1 chunk 0)"));
  // An edge to a task that is not there never comes true, and is said so.
  plan.steady.after[plan.steady.tasks[0].after.begin] = {99, 0};
  EXPECT_THAT(simulate(plan, workload, round_machine(), {{}}).deadlock_tasks,
              HasSubstr("a task that is not in the plan"));
}

TEST(Simulate, BytesAreThoseOfAllRounds) {
  const Workload workload = layered({Layer{{2 * kMiB, kMiB}, 1}, Layer{{3 * kMiB}, 1}});
  const Plan plan = stream_plan(workload, 0);
  const Timeline timeline = simulate(plan, workload, round_machine(), std::vector<PassRows>(5));
  ASSERT_EQ(timeline.bytes.size(), 1u);
  EXPECT_EQ(
      timeline.bytes[0],
      (ByteRow{{Tier::kDisk, Tier::kHost}, Kind::kWeights, 2 * kMiB + 5 * 6 * kMiB, 1 + 5 * 3}));
}

TEST(Simulate, AttentionIsChargedOnceASegment) {
  Workload workload = layered({Layer{{kMiB, kMiB, kMiB}, 0}});
  Plan plan = stream_plan(workload, 2);
  const Machine machine = round_machine();
  const double before = simulate(plan, workload, machine, {{4, 100, 1}}).busy_s[0];
  workload.segments[0].cost.kv_bytes_per_row = 4096;
  workload.segments[0].cost.flops_per_row_context = 1 << 20;
  const double after = simulate(plan, workload, machine, {{4, 100, 1}}).busy_s[0];
  const double flops = (1 << 20) * 400.0 / machine.matmul_flops_f32;
  const double read = 4096 * 400.0 / machine.memory_read_bytes_per_s;
  EXPECT_NEAR(after - before, product_s(read, flops), 1e-15);
}

TEST(Simulate, OnlyWantedRowsAreComputedAtTheEnd) {
  Workload workload = layered({Layer{{kMiB}, 1 << 30}});
  const Plan plan = stream_plan(workload, 0);
  const PassRows pass{.rows = 100, .context = 1, .outputs = 2};
  Machine machine = round_machine();
  machine.memory_read_bytes_per_s = 1e18;  // multiplying alone counts
  const double layer = simulate(plan, workload, machine, {pass}).busy_s[0];
  workload.segments[0].per_output = true;
  const double head = simulate(plan, workload, machine, {pass}).busy_s[0];
  EXPECT_DOUBLE_EQ(layer, 50 * head);
}

TEST(Simulate, MachineWithoutAFigureIsRefused) {
  const Workload workload = layered({Layer{{kMiB}, 1}});
  const Plan plan = stream_plan(workload, 0);
  Machine machine = round_machine();
  machine.rates.clear();
  try {
    simulate(plan, workload, machine, {{}});
    FAIL() << "no disk rate";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_EQ(error.field(), "disk->host");
  }
}

// A demand read waits for the transfer in flight, not for those queued behind it.
TEST(Simulate, DemandReadGoesBeforeQueuedFetches) {
  Workload workload = layered({Layer{{256 * kMiB, 256 * kMiB, 256 * kMiB}, 0}});
  workload.objects.push_back({.id = 1, .name = "embedding", .chunks = {256 * kMiB, 256 * kMiB}});
  SegmentSpec embed;
  embed.id = 1;
  embed.kind = SegmentKind::kEmbed;
  embed.name = "embedding";
  embed.candidates = {1};
  embed.choices_per_row = 1;
  workload.segments.push_back(embed);
  Plan plan;
  plan.holes = {{.segment = 1, .source = Source::kTokens, .pool = 0, .choices_per_row = 1}};
  plan.pools = {{.tier = Tier::kHost, .slots = 1, .slot_bytes = 256 * kMiB}};
  plan.arena_bytes[1] = 256 * kMiB;
  for (uint32_t c = 0; c < 3; ++c) {
    add_task(plan.steady, fetch_task({0, c, 256 * kMiB}), {});
  }
  Task task;
  task.kind = TaskKind::kEmbed;
  task.segment = 1;
  task.hole = 0;
  add_task(plan.steady, task, {});
  const Timeline timeline = simulate(plan, workload, round_machine(), {{1, 1, 1}}, true);
  ASSERT_EQ(timeline.intervals.size(), 4u);
  // Of two chunks one slot holds one, and a row picks either: half of the passes read a chunk, at
  // the disk's rate and late by a hand-over, a latency and 2 MiB on their own. Compute is first in
  // line for the disk at time 0.
  const double fetch = 1.0 / 8192 + 0.25;
  const double demand = 0.5 * (0.2e-3 + fetch + 1.0 / 512);
  EXPECT_DOUBLE_EQ(timeline.intervals[3].end_s, demand);
  EXPECT_DOUBLE_EQ(timeline.intervals[0].begin_s, demand);
  EXPECT_DOUBLE_EQ(timeline.makespan_s, demand + 3 * fetch);
  ASSERT_EQ(timeline.stalls.size(), 1u);
  EXPECT_EQ(timeline.stalls[0].cause, "disk_read");
  EXPECT_DOUBLE_EQ(timeline.stalls[0].seconds, demand);
  // Behind a first fetch, it waits for that one alone.
  plan.steady.tasks[3].after.begin = static_cast<uint32_t>(plan.steady.after.size());
  plan.steady.after.push_back({0, 0});
  plan.steady.tasks[3].after.end = static_cast<uint32_t>(plan.steady.after.size());
  const Timeline behind = simulate(plan, workload, round_machine(), {{1, 1, 1}}, true);
  EXPECT_DOUBLE_EQ(behind.intervals[3].end_s, fetch + demand);
  EXPECT_DOUBLE_EQ(behind.intervals[1].begin_s, fetch + demand);
  EXPECT_DOUBLE_EQ(behind.stalls.at(0).seconds, fetch + demand);
  EXPECT_DOUBLE_EQ(behind.busy_s[static_cast<size_t>(Lane::kDiskRead)], 3 * fetch + demand);
}

TEST(Simulate, HundredLayersAndTwentyPassesAreQuick) {
  const Workload workload =
      layered(std::vector<Layer>(100, Layer{std::vector<Bytes>(16, 4 * kMiB), 1 << 28}));
  const Plan plan = stream_plan(workload, 8);
  const auto begin = std::chrono::steady_clock::now();
  const Timeline timeline = simulate(plan, workload, round_machine(), std::vector<PassRows>(20));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_FALSE(timeline.deadlock);
  RecordProperty("milliseconds", static_cast<int>(took.count() * 1e3));
  EXPECT_LT(took.count(), 1.0);  // about 0.02 s; sanitizers and busy machines are slower
}

}  // namespace
}  // namespace headrace::scheduler
