// Bytes that crossed an edge, by kind: the one counter that profiles and checks read. Counted where
// a transfer completes, aligned reads in full; a retried part is counted as kRetries besides.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "core/tier.h"

namespace headrace::swap {

struct LedgerRow {
  Edge edge;
  Kind kind;
  Bytes bytes = 0;
  uint64_t operations = 0;
  bool operator==(const LedgerRow&) const = default;
};

class Ledger {  // thread-safe
 public:
  void count(Edge edge, Kind kind, Bytes bytes, uint64_t operations = 1);
  Bytes bytes(Edge edge, Kind kind) const;
  std::vector<LedgerRow> rows() const;  // the non-zero ones, in a fixed order
  void reset();

 private:
  struct Cell {
    std::atomic<Bytes> bytes{0};
    std::atomic<uint64_t> operations{0};
  };
  std::array<Cell, kTiers * kTiers * kKinds> cells_;
};

}  // namespace headrace::swap
