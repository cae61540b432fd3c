#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "scheduler/plan.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {

// Equality for the test alone: everything that a plan holds.
bool operator==(const Use& a, const Use& b) {
  return a.object == b.object && a.chunk == b.chunk && a.slot == b.slot;
}
bool operator==(const Task& a, const Task& b) {
  return a.kind == b.kind && a.lane == b.lane && a.segment == b.segment && a.hole == b.hole &&
         a.uses == b.uses && a.after == b.after && a.object == b.object && a.chunk == b.chunk &&
         a.from == b.from && a.to == b.to && a.bytes == b.bytes && a.edge == b.edge &&
         a.counted == b.counted;
}
bool operator==(const Round& a, const Round& b) {
  return a.kind == b.kind && a.tasks == b.tasks && a.uses == b.uses && a.after == b.after;
}
bool operator==(const Resident& a, const Resident& b) {
  return a.object == b.object && a.chunk == b.chunk && a.tier == b.tier && a.offset == b.offset;
}
bool operator==(const Ring& a, const Ring& b) {
  return a.tier == b.tier && a.slots == b.slots && a.step == b.step &&
         a.slot_bytes == b.slot_bytes && a.offset == b.offset;
}
bool operator==(const Pool& a, const Pool& b) {
  return a.tier == b.tier && a.slots == b.slots && a.slot_bytes == b.slot_bytes &&
         a.offset == b.offset && a.staging == b.staging && a.evict == b.evict;
}
bool operator==(const Hole& a, const Hole& b) {
  return a.segment == b.segment && a.source == b.source && a.pool == b.pool &&
         a.choices_per_row == b.choices_per_row;
}
bool operator==(const MemorySplit& a, const MemorySplit& b) {
  return a.base == b.base && a.resident_weights == b.resident_weights &&
         a.stream_ring == b.stream_ring && a.kv == b.kv && a.activations == b.activations &&
         a.gradients == b.gradients && a.optimizer == b.optimizer && a.workspace == b.workspace &&
         a.io == b.io && a.slack == b.slack;
}
bool operator==(const Alternative& a, const Alternative& b) {
  return a.policy == b.policy && a.prefetch_depth == b.prefetch_depth && a.rows_max == b.rows_max &&
         a.bytes == b.bytes && a.predicted_s == b.predicted_s && a.why == b.why &&
         a.required_bytes == b.required_bytes;
}
bool operator==(const Plan& a, const Plan& b) {
  return a.version == b.version && a.model == b.model && a.policy == b.policy &&
         a.numerics == b.numerics && a.machine_hash == b.machine_hash &&
         a.workload_hash == b.workload_hash && a.budget == b.budget &&
         a.weights_bytes == b.weights_bytes && a.memory == b.memory &&
         a.arena_bytes[0] == b.arena_bytes[0] && a.arena_bytes[1] == b.arena_bytes[1] &&
         a.prefetch_depth == b.prefetch_depth && a.rows_max == b.rows_max &&
         a.outputs_max == b.outputs_max && a.kv_blocks == b.kv_blocks && a.kv == b.kv &&
         a.sequences == b.sequences && a.residents == b.residents && a.rings == b.rings &&
         a.pools == b.pools && a.holes == b.holes && a.enter == b.enter && a.steady == b.steady &&
         a.bytes == b.bytes && a.bytes_least == b.bytes_least && a.bytes_most == b.bytes_most &&
         a.bound_bytes == b.bound_bytes && a.predicted_s == b.predicted_s && a.why == b.why &&
         a.alternatives == b.alternatives;
}

namespace {

std::string refusal(const std::string& text) {
  try {
    parse_plan(text, "here");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_EQ(error.path(), "here");
    return error.what();
  }
  return "accepted";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string small_text() {
  Random random(1);
  return print_plan(testing::random_plan(random).plan);
}

TEST(PlanText, ParsesBackToTheSamePlan) {
  for (uint64_t i = 0; i < test::cases(60); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    Plan plan = testing::random_plan(random).plan;
    plan.model = " odd\nname\\x41\t\x7f ";
    plan.numerics = "";
    plan.predicted_s = random.uniform() * 1e-3;
    plan.machine_hash = random.next_u64();
    const std::string text = print_plan(plan);
    const Plan again = parse_plan(text, "text");
    EXPECT_TRUE(again == plan);
    EXPECT_EQ(print_plan(again), text);
    Plan other = again;  // the comparison sees what it is asked to see
    if (!other.steady.after.empty()) {
      other.steady.after.back().task ^= 1;
      EXPECT_FALSE(other == plan);
    }
  }
}

TEST(PlanText, EveryTruncationIsRefused) {
  const std::string text = small_text();
  Random random(test::seed());
  SCOPED_TRACE(test::seed_note(0));
  for (int i = 0; i < 300; ++i) {
    EXPECT_THAT(refusal(text.substr(0, random.below(text.size()))), ::testing::HasSubstr("line "));
  }
  for (size_t at = text.find('\n'); at + 1 < text.size(); at = text.find('\n', at + 1)) {
    ASSERT_THAT(refusal(text.substr(0, at + 1)), ::testing::HasSubstr("line "));
    if (at > 20000) break;
  }
}

TEST(PlanText, HostileTextIsRefusedWithItsLine) {
  using ::testing::HasSubstr;
  const std::string text = small_text();
  EXPECT_EQ(refusal(text), "accepted");
  EXPECT_THAT(refusal(""), HasSubstr("line 0"));
  EXPECT_THAT(refusal("\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal(replaced(text, "plan 1", "plan 2")), HasSubstr("version 2"));
  EXPECT_THAT(refusal(replaced(text, "plan 1", "plan  1")), HasSubstr("line 1"));
  EXPECT_THAT(refusal(replaced(text, "plan 1", "plan 1 ")), HasSubstr("line 1"));
  EXPECT_THAT(refusal(replaced(text, "plan 1\n", "plan 1\n\n")), HasSubstr("line 2"));
  EXPECT_THAT(refusal(replaced(text, "model ", "model \\x4")), HasSubstr("line 2"));
  EXPECT_THAT(refusal(replaced(text, "model ", "model \t")), HasSubstr("control"));
  EXPECT_THAT(refusal(replaced(text, "budget ", "budget -")), HasSubstr("bad number"));
  EXPECT_THAT(refusal(replaced(text, "budget ", "budget 99999999999999999999")),
              HasSubstr("bad number"));
  EXPECT_THAT(refusal(replaced(text, "budget ", "budget 0x")), HasSubstr("bad number"));
  EXPECT_THAT(refusal(replaced(text, "predicted_s ", "predicted_s nan ")), HasSubstr("bad number"));
  EXPECT_THAT(refusal(replaced(text, "resident_weights", "resident")), HasSubstr("expected"));
  EXPECT_THAT(refusal(replaced(text, "task fetch", "task burn")), HasSubstr("burn"));
  EXPECT_THAT(refusal(replaced(text, "disk->", "disc->")), HasSubstr("edge"));
  EXPECT_THAT(refusal(replaced(text, "round enter", "round steady")), HasSubstr("out of order"));
  EXPECT_THAT(refusal(text + "end\n"), HasSubstr("follows the end"));
  EXPECT_THAT(refusal(replaced(text, "\nend\n", "\nend more\n")), HasSubstr("line "));
  EXPECT_THAT(refusal("headrace-plan 1\nmodel " + std::string(1 << 20, 'x') + "\n"),
              HasSubstr("too long"));
  std::string many;
  for (int i = 0; i < 65; ++i) {
    many += "alternative a depth 0 rows 0 bytes 0 required 0 predicted_s 0 why x\n";
  }
  const size_t first = text.find("alternative ");
  EXPECT_THAT(refusal(text.substr(0, first) + many + text.substr(first)), HasSubstr("too many"));
}

TEST(PlanText, RingSlotsNeverWrap) {
  const Ring ring{.slots = 7, .step = 0xffffffffu};
  EXPECT_EQ(ring_slot(ring, {Space::kRing, 0, 0xffffffffu}, -1), 0xffffffffu % 7);
  uint64_t slot = 0xffffffffu % 7;
  for (int64_t r = 1; r < 20; ++r) {
    slot = (slot + 0xffffffffu % 7) % 7;
    EXPECT_EQ(ring_slot(ring, {Space::kRing, 0, 0xffffffffu}, r), slot);
  }
}

}  // namespace
}  // namespace headrace::scheduler
