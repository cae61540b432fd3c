// Access strings of training steps, as the oracles of planning use them: L equal layers, whole
// objects, one device. W weights of a layer, G its gradients, K its optimizer state, X a boundary
// activation of one micro-batch (a layer's output and the next layer's stash are one object), D its
// gradient. Layers count from 1; X of layer 0 is the data set's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "scheduler/liveness.h"

namespace headrace::scheduler {

enum TrainingKind : uint8_t { kW, kG, kK, kX, kD };

// Just in time: on the device, as soon as the layer's last gradient is in. At the end: after all
// backward. Host: the gradient leaves, the host updates, the device's weight becomes stale.
enum class Update : uint8_t { kJustInTime, kAtEnd, kHost, kHostAtEnd };

struct TrainingShape {
  uint32_t layers = 1, micro_batches = 1;
  uint32_t group = 1;  // micro-batches through a layer before the next layer
  uint32_t pack = 1;   // layers that a micro-batch passes at once
  uint32_t steps = 1;
  Update update = Update::kJustInTime;
  bool fused_turn = true;    // the last layer's forward is part of its backward
  bool snake = false;        // forward reverses the micro-batches at every other pack
  bool last_output = false;  // the last layer's output dies with its backward
  bool data_is_free = true;  // layer 1's input is not swapped
  bool ascending = false;    // updates at the end go from layer 1 up, not from the last down
};

struct TrainingSizes {
  double w = 0, g = 0, k = 0, x = 0, d = 0;
};

struct TrainingString {
  std::vector<Access> string;
  std::vector<CacheObject> objects;
};

class TrainingStringMaker {
 public:
  TrainingStringMaker(const TrainingShape& shape, const TrainingSizes& sizes) : shape_(shape) {
    const uint32_t rows = shape.micro_batches;
    add(kW, sizes.w, shape.layers, true);
    add(kK, sizes.k, shape.layers, true);
    for (step_ = 0; step_ < shape.steps; ++step_) {
      add(kG, sizes.g, shape.layers, false);
      for (uint32_t layer = 0; layer <= shape.layers; ++layer) {
        add(kX, sizes.x, rows, false, layer == 0 && shape.data_is_free);
      }
      add(kD, sizes.d, (shape.layers + 1) * rows, false);
    }
    for (step_ = 0; step_ < shape.steps; ++step_) step();
  }
  TrainingString take() { return std::move(made_); }

 private:
  void add(TrainingKind kind, double bytes, uint32_t count, bool kept, bool free_input = false) {
    made_.objects.insert(made_.objects.end(), count, CacheObject{bytes, kind, kept, free_input});
  }
  uint32_t w(uint32_t layer) const { return layer - 1; }
  uint32_t k(uint32_t layer) const { return shape_.layers + layer - 1; }
  uint32_t of_step() const {
    const uint32_t boundaries = (shape_.layers + 1) * shape_.micro_batches;
    return 2 * shape_.layers + step_ * (shape_.layers + 2 * boundaries);
  }
  uint32_t g(uint32_t layer) const { return of_step() + layer - 1; }
  uint32_t x(uint32_t layer, uint32_t row) const {
    return of_step() + shape_.layers + layer * shape_.micro_batches + row;
  }
  uint32_t d(uint32_t layer, uint32_t row) const {
    return x(layer, row) + (shape_.layers + 1) * shape_.micro_batches;
  }

  void step() {
    std::vector<std::vector<uint32_t>> packs;  // of layers
    for (uint32_t layer = 1; layer <= shape_.layers; ++layer) {
      if ((layer - 1) % shape_.pack == 0) packs.emplace_back();
      packs.back().push_back(layer);
    }
    for (uint32_t begin = 0; begin < shape_.micro_batches; begin += shape_.group) {
      std::vector<uint32_t> rows;
      for (uint32_t i = begin; i < std::min(shape_.micro_batches, begin + shape_.group); ++i) {
        rows.push_back(i);
      }
      forward(packs, rows);
      backward(packs, rows, begin + shape_.group >= shape_.micro_batches);
    }
    if (shape_.update == Update::kAtEnd || shape_.update == Update::kHostAtEnd) {
      for (uint32_t i = 0; i < shape_.layers; ++i) {
        update(shape_.ascending ? i + 1 : shape_.layers - i);
      }
    }
    made_.string.push_back({.reads = {}, .writes = {}, .dead = {}, .end_of_step = true});
  }

  void forward(const std::vector<std::vector<uint32_t>>& packs, const std::vector<uint32_t>& rows) {
    bool turn = false;
    for (size_t p = 0; p + (shape_.fused_turn ? 1 : 0) < packs.size(); ++p) {
      std::vector<uint32_t> order = rows;
      if (shape_.snake && turn) std::reverse(order.begin(), order.end());
      turn = !turn;
      for (uint32_t i : order) {
        for (uint32_t l : packs[p]) {
          made_.string.push_back({.reads = {w(l), x(l - 1, i)}, .writes = {x(l, i)}, .dead = {}});
        }
      }
    }
  }

  void backward(const std::vector<std::vector<uint32_t>>& packs, const std::vector<uint32_t>& rows,
                bool is_last_group) {
    for (auto pack = packs.rbegin(); pack != packs.rend(); ++pack) {
      for (uint32_t i : rows) {
        for (auto layer = pack->rbegin(); layer != pack->rend(); ++layer) {
          const uint32_t l = *layer;
          Access access{.reads = {w(l), x(l - 1, i)}, .writes = {g(l)}, .dead = {x(l - 1, i)}};
          if (l < shape_.layers) {
            access.reads.push_back(d(l, i));
            access.dead.push_back(d(l, i));
          } else if (shape_.last_output) {
            access.dead.push_back(x(shape_.layers, i));
          }
          if (i > 0) access.reads.push_back(g(l));  // the sum so far; micro-batch 0 begins it
          if (l > 1) access.writes.push_back(d(l - 1, i));
          made_.string.push_back(std::move(access));
        }
      }
      const bool now = shape_.update == Update::kJustInTime || shape_.update == Update::kHost;
      if (!is_last_group || !now) continue;
      for (auto layer = pack->rbegin(); layer != pack->rend(); ++layer) update(*layer);
    }
  }

  void update(uint32_t l) {
    if (shape_.update == Update::kHost || shape_.update == Update::kHostAtEnd) {
      made_.string.push_back({.reads = {},
                              .writes = {},
                              .dead = {},
                              .end_of_step = false,
                              .host_gradient = g(l),
                              .host_weight = w(l)});
    } else {
      made_.string.push_back({.reads = {w(l), g(l), k(l)}, .writes = {w(l), k(l)}, .dead = {g(l)}});
    }
  }

  TrainingShape shape_;
  uint32_t step_ = 0;
  TrainingString made_;
};

inline TrainingString training_string(const TrainingShape& shape, const TrainingSizes& sizes) {
  return TrainingStringMaker(shape, sizes).take();
}

}  // namespace headrace::scheduler
