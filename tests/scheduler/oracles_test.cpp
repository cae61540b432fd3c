// The oracles of planning: swap volumes of training schedules, whole objects, one device. Numbers
// marked "table" are the published ones; the rest are laws. Conventions (cold start or steady
// state, fused turn, ties, workspace) stand beside each.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/liveness.h"
#include "tests/support/training_strings.h"

namespace headrace::scheduler {
namespace {

constexpr Victim kLru = Victim::kLeastRecentlyUsed;
constexpr Victim kNextUse = Victim::kFurthestNextUse;

// Bytes of the last step: what a step costs once residency has settled.
double steady(TrainingShape shape, const TrainingSizes& sizes, double capacity, Victim victim,
              bool dirty_bits = true) {
  shape.steps = 3;
  const TrainingString made = training_string(shape, sizes);
  return replay(made.string, made.objects, capacity, victim, dirty_bits).back().total();
}

// One step from an empty memory; what is dirty at the end is written.
StepBytes cold(TrainingShape shape, const TrainingSizes& sizes, double capacity, Victim victim,
               bool dirty_bits = true) {
  shape.fused_turn = false;
  shape.last_output = true;
  shape.data_is_free = false;
  const TrainingString made = training_string(shape, sizes);
  return replay(made.string, made.objects, capacity, victim, dirty_bits, true).back();
}

double traffic(const StepBytes& step, TrainingKind kind) { return step.in[kind] + step.out[kind]; }

TEST(Oracles, WeightTrafficOf24LayersByMicroBatches) {
  const TrainingSizes sizes{.w = 1000, .g = 1000, .k = 2000, .x = 10, .d = 10};
  const double capacity = 2 * 1000 + 2000 + 3 * 10;
  const std::tuple<uint32_t, double, double> table[] = {
      {1, 5.83, 3.92}, {2, 9.50, 5.75}, {4, 16.83, 9.42}, {8, 31.50, 16.75}, {16, 60.83, 31.42}};
  for (const auto& [m, without, with] : table) {
    SCOPED_TRACE(m);
    TrainingShape shape{.layers = 24, .micro_batches = m, .group = 1, .update = Update::kAtEnd};
    EXPECT_NEAR(traffic(cold(shape, sizes, capacity, kLru, false), kW) / 24000, without, 0.01);
    EXPECT_NEAR(traffic(cold(shape, sizes, capacity, kLru, true), kW) / 24000, with, 0.01);
    // Beside the table: updates that begin at layer 1, where backward ended, find its weight and
    // its gradient in memory, one layer's in 24.
    shape.ascending = true;
    const StepBytes plain = cold(shape, sizes, capacity, kLru);
    EXPECT_NEAR(traffic(plain, kG) / 24000, 2 * m - 0.08, 0.01);
    EXPECT_NEAR(traffic(plain, kW) / 24000, with - 1.0 / 24, 0.01);
    shape.group = m;
    EXPECT_NEAR(traffic(cold(shape, sizes, capacity, kLru), kW) / 24000, 3.88, 0.01);
    shape.update = Update::kJustInTime;
    const StepBytes grouped = cold(shape, sizes, capacity, kLru);
    EXPECT_NEAR(traffic(grouped, kW) / 24000, 2.96, 0.01);
    EXPECT_EQ(traffic(grouped, kG), 0);
  }
}

TEST(Oracles, GroupLawOf96Layers) {
  const TrainingSizes sizes{.w = 1000, .g = 1000, .k = 2000, .x = 20, .d = 20};
  // Printed by the reference beside the law: exact to two digits.
  const std::tuple<uint32_t, double, double> table[] = {
      {1, 32.21, 30.00}, {2, 16.62, 14.00}, {4, 8.86, 6.00}, {8, 4.95, 2.00}, {16, 2.99, 0.00}};
  for (const auto& [g, weights, gradients] : table) {
    SCOPED_TRACE(g);
    const StepBytes step = cold({.layers = 96, .micro_batches = 16, .group = g}, sizes,
                                2 * 1000 + 2000 + 3 * 20, kNextUse);
    const double w = traffic(step, kW) / 96000, dw = traffic(step, kG) / 96000;
    EXPECT_NEAR(w, weights, 0.005);
    EXPECT_NEAR(dw, gradients, 0.005);
    const double groups = std::ceil(16.0 / g);
    EXPECT_LE(w, 2 * groups + 1);
    EXPECT_GE(w, 2 * groups + 1 - 0.95);
    EXPECT_LE(dw, 2 * groups - 2);
    EXPECT_GE(dw, std::max(0.0, 2 * groups - 2 - 0.95));
  }
}

TEST(Oracles, ToyOf12LayersExactly) {
  const TrainingSizes sizes{.w = 10, .g = 20, .k = 60, .x = 1, .d = 1};
  const TrainingShape plain{.layers = 12, .micro_batches = 8, .group = 1, .update = Update::kAtEnd};
  const TrainingShape vertical{.layers = 12, .micro_batches = 8, .group = 8};
  EXPECT_EQ(steady(plain, sizes, 96, kLru, false), 8576);
  EXPECT_EQ(steady(plain, sizes, 96, kLru), 7108);
  EXPECT_EQ(steady(plain, sizes, 96, kNextUse), 6524);
  EXPECT_EQ(steady(vertical, sizes, 96, kLru), 2116);
  EXPECT_EQ(steady(vertical, sizes, 96, kNextUse), 1992);
}

TEST(Oracles, ActivationHeavyToyExactly) {
  const TrainingSizes sizes{.w = 10, .g = 10, .k = 30, .x = 10, .d = 10};
  TrainingShape shape{.layers = 12, .micro_batches = 16, .group = 8, .update = Update::kHost};
  EXPECT_EQ(steady(shape, sizes, 110, kLru), 9130);
  EXPECT_EQ(steady(shape, sizes, 110, kNextUse), 4480);
  shape.group = 16;
  shape.pack = 3;
  EXPECT_EQ(steady(shape, sizes, 110, kNextUse), 4450);
  shape.pack = 4;
  EXPECT_EQ(steady(shape, sizes, 110, kNextUse), 4080);
}

// 1.3 B parameters: 24 layers, hidden 2048, 32 x 512 tokens, 2 GB of which 0.1 are workspace.
// Sizes in GB: 2 bytes a parameter of weights, 4 of gradients, 12 of optimizer state.
TEST(Oracles, OnePointThreeBillionParameters) {
  const double n = 12 * 2048.0 * 2048.0 / 1e9;
  const double x = 512 * 2048 * 2 / 1e9;
  const TrainingSizes sizes{.w = 2 * n, .g = 4 * n, .k = 12 * n, .x = x, .d = x};
  const TrainingShape plain{
      .layers = 24, .micro_batches = 32, .group = 1, .update = Update::kAtEnd};
  const TrainingShape grouped{.layers = 24, .micro_batches = 32, .group = 32};
  EXPECT_NEAR(steady(plain, sizes, 1.9, kLru, false), 578.14, 0.01);
  EXPECT_NEAR(steady(plain, sizes, 1.9, kLru), 461.71, 0.01);
  EXPECT_NEAR(steady(grouped, sizes, 1.9, kNextUse), 36.91, 0.01);
  const GroupedShape shape{.layers = 24,
                           .micro_batches = 32,
                           .group = 32,
                           .weights = 2 * n,
                           .gradients = 4 * n,
                           .optimizer = 12 * n,
                           .activation = x,
                           .capacity = 1.9};
  EXPECT_NEAR(grouped_bound(shape), 32.08, 0.01);
}

// An 8 B shape: 32 layers, 32 x 4096 tokens, 8 GB of which 2 are workspace, the host updates.
TEST(Oracles, EightBillionParameters) {
  const double n = 0.218;
  const double x = 4096.0 * 4096.0 * 2 / 1e9;
  const TrainingSizes sizes{.w = 2 * n, .g = 4 * n, .k = 0, .x = x, .d = x};
  TrainingShape shape{.layers = 32, .micro_batches = 32, .group = 1, .update = Update::kHostAtEnd};
  EXPECT_NEAR(steady(shape, sizes, 6.0, kLru, false), 3351.32, 0.01);
  EXPECT_NEAR(steady(shape, sizes, 6.0, kLru), 2582.89, 0.01);
  shape.group = 32;
  shape.update = Update::kHost;
  EXPECT_NEAR(steady(shape, sizes, 6.0, kNextUse), 113.99, 0.01);
  const GroupedShape bound{.layers = 32,
                           .micro_batches = 32,
                           .group = 32,
                           .weights = 2 * n,
                           .gradients = 4 * n,
                           .activation = x,
                           .capacity = 6.0,
                           .host_update = true};
  EXPECT_NEAR(grouped_bound(bound), 110.38, 0.01);
}

TEST(Oracles, OneOperationThatDoesNotFitIsRefused) {
  const TrainingSizes sizes{.w = 10, .g = 20, .k = 60, .x = 1, .d = 1};
  const TrainingShape shape{.layers = 3, .micro_batches = 2, .group = 2};
  // The update holds W, G and K at once: 90 is exactly enough.
  EXPECT_NO_THROW(steady(shape, sizes, 90, kNextUse));
  try {
    steady(shape, sizes, 89, kNextUse);
    FAIL() << "89 must be too little";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible);
  }
}

}  // namespace
}  // namespace headrace::scheduler
