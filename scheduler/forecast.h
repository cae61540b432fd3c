// When a candidate of a pool will be wanted again: what decides which one gives up its slot. Layers
// take their turns in a known order; how likely a layer's turn picks a candidate is estimated from
// how lately and how often it was picked, by counting what came of that for all candidates before.
// Pure and deterministic: the same observations give the same estimates. One thread; allocates
// only when made. Why this and no other: docs/design/007-experts.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace headrace::scheduler {

struct Choice {  // what a pass wants of a hole
  uint32_t candidate = 0;
  uint32_t rows = 1;  // how many rows picked it
};

class Forecast {
 public:
  Forecast() = default;
  // A pass has as many turns, in order; `candidates` of each.
  explicit Forecast(const std::vector<uint32_t>& candidates);

  // What earlier runs saw: of `rows` rows of turn `turn`, how many picked each candidate.
  void seed(uint32_t turn, uint64_t rows, std::span<const uint64_t> picks);

  // Turn `turn` of the pass under way wants `choices`, which `rows` rows made.
  void observe(uint32_t turn, std::span<const Choice> choices, uint32_t rows);
  // How many turns after turn `now`, which was the last to be observed, the candidate is expected
  // to be wanted; more than 0.
  double turns_until(uint32_t now, uint32_t turn, uint32_t candidate) const;

 private:
  struct Seen {
    double share = 0;   // of the rows that picked it, lately; not yet divided by Turn::weight
    uint64_t pass = 0;  // of its turn that picked it last; 0: none has
    double passes = 0;  // expected to go by before the one that picks it
  };
  struct Turn {
    std::vector<Seen> seen;
    double weight = 0;  // what a candidate would have for a share that every row picked
    uint64_t passes = 0;
  };
  struct Tried {  // how often candidates of a kind were picked at their next turn
    double picked = 0, of = 0;
  };
  static size_t kind_of(const Turn& turn, const Seen& seen, uint64_t pass);
  void foresee(Turn& turn);

  std::vector<Turn> turns_;
  std::vector<Tried> tried_;  // by kind
};

}  // namespace headrace::scheduler
