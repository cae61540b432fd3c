#include "swap/ledger.h"

namespace headrace::swap {
namespace {

size_t cell_of(Edge edge, Kind kind) {
  return (static_cast<size_t>(edge.from) * kTiers + static_cast<size_t>(edge.to)) * kKinds +
         static_cast<size_t>(kind);
}

}  // namespace

// Relaxed order is enough: whoever compares totals has waited for the transfers, and that wait
// orders the counts before the reading.
void Ledger::count(Edge edge, Kind kind, Bytes bytes, uint64_t operations) {
  Cell& cell = cells_[cell_of(edge, kind)];
  cell.bytes.fetch_add(bytes, std::memory_order_relaxed);
  cell.operations.fetch_add(operations, std::memory_order_relaxed);
}

Bytes Ledger::bytes(Edge edge, Kind kind) const {
  return cells_[cell_of(edge, kind)].bytes.load(std::memory_order_relaxed);
}

std::vector<LedgerRow> Ledger::rows() const {
  std::vector<LedgerRow> rows;
  for (size_t from = 0; from < kTiers; ++from) {
    for (size_t to = 0; to < kTiers; ++to) {
      for (size_t kind = 0; kind < kKinds; ++kind) {
        const Edge edge{static_cast<Tier>(from), static_cast<Tier>(to)};
        const Cell& cell = cells_[cell_of(edge, static_cast<Kind>(kind))];
        const LedgerRow row{.edge = edge,
                            .kind = static_cast<Kind>(kind),
                            .bytes = cell.bytes.load(std::memory_order_relaxed),
                            .operations = cell.operations.load(std::memory_order_relaxed)};
        if (row.bytes != 0 || row.operations != 0) rows.push_back(row);
      }
    }
  }
  return rows;
}

void Ledger::reset() {
  for (Cell& cell : cells_) {
    cell.bytes.store(0, std::memory_order_relaxed);
    cell.operations.store(0, std::memory_order_relaxed);
  }
}

}  // namespace headrace::swap
